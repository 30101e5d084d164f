package broker

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"slices"
	"time"
)

// connzLimit is the number of connections listed when a request names no limit.
const connzLimit = 1024

// ConnzOptions select and order connections; field names are nats-server's.
type ConnzOptions struct {
	Sort                string `json:"sort"`
	Username            bool   `json:"auth"` // include user and account
	Subscriptions       bool   `json:"subscriptions"`
	SubscriptionsDetail bool   `json:"subscriptions_detail"`
	Offset              int    `json:"offset"`
	Limit               int    `json:"limit"` // 0: 1024
	CID                 uint64 `json:"cid"`
	State               int    `json:"state"` // 0: open, 1: closed, 2: all; closed ones are not remembered
	User                string `json:"user"`
	Account             string `json:"acc"`
}

// Connz is a list of connections.
type Connz struct {
	ID       string      `json:"server_id"`
	Now      time.Time   `json:"now"`
	NumConns int         `json:"num_connections"`
	Total    int         `json:"total"`
	Offset   int         `json:"offset"`
	Limit    int         `json:"limit"`
	Conns    []*ConnInfo `json:"connections"`
}

// ConnInfo describes one connection.
type ConnInfo struct {
	CID          uint64      `json:"cid"`
	Kind         string      `json:"kind"`
	Type         string      `json:"type"`
	IP           string      `json:"ip"`
	Port         int         `json:"port"`
	Start        time.Time   `json:"start"`
	LastActivity time.Time   `json:"last_activity"`
	RTT          string      `json:"rtt,omitempty"`
	Uptime       string      `json:"uptime"`
	Idle         string      `json:"idle"`
	Pending      int64       `json:"pending_bytes"`
	InMsgs       int64       `json:"in_msgs"`
	OutMsgs      int64       `json:"out_msgs"`
	InBytes      int64       `json:"in_bytes"`
	OutBytes     int64       `json:"out_bytes"`
	NumSubs      int         `json:"subscriptions"`
	Name         string      `json:"name,omitempty"`
	Lang         string      `json:"lang,omitempty"`
	Version      string      `json:"version,omitempty"`
	TLSVersion   string      `json:"tls_version,omitempty"`
	TLSCipher    string      `json:"tls_cipher_suite,omitempty"`
	User         string      `json:"authorized_user,omitempty"`
	Account      string      `json:"account,omitempty"`
	Subs         []string    `json:"subscriptions_list,omitempty"`
	SubsDetail   []SubDetail `json:"subscriptions_list_detail,omitempty"`

	rtt time.Duration
}

// SubDetail describes one subscription.
type SubDetail struct {
	Account string `json:"account,omitempty"`
	Subject string `json:"subject"`
	Queue   string `json:"qgroup,omitempty"`
	SID     string `json:"sid"`
	Msgs    int    `json:"msgs"`
	Max     int    `json:"max,omitempty"`
	CID     uint64 `json:"cid"`
}

// Connz lists open connections.
func (b *Broker) Connz(o ConnzOptions) (*Connz, error) {
	order, err := connzOrder(o.Sort)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	var list []*ConnInfo
	if o.State != 1 {
		for _, c := range b.allClients() {
			i := c.describe(now, &o)
			if (o.CID == 0 || i.CID == o.CID) && (o.User == "" || i.User == o.User) && (o.Account == "" || i.Account == o.Account) {
				if !o.Username {
					i.User, i.Account = "", ""
				}
				list = append(list, i)
			}
		}
	}
	slices.SortFunc(list, order)
	limit := o.Limit
	if limit <= 0 {
		limit = connzLimit
	}
	z := &Connz{ID: b.id, Now: now, Total: len(list), Offset: max(o.Offset, 0), Limit: limit, Conns: []*ConnInfo{}}
	from := min(z.Offset, len(list))
	z.Conns = append(z.Conns, list[from:min(from+limit, len(list))]...)
	z.NumConns = len(z.Conns)
	return z, nil
}

// connzOrder returns the comparison of a sort option: ascending by cid or start, else descending.
func connzOrder(name string) (func(x, y *ConnInfo) int, error) {
	var key func(*ConnInfo) int64
	switch name {
	case "", "cid", "start", "uptime":
		return func(x, y *ConnInfo) int { return cmp.Compare(x.CID, y.CID) }, nil
	case "subs":
		key = func(i *ConnInfo) int64 { return int64(i.NumSubs) }
	case "pending":
		key = func(i *ConnInfo) int64 { return i.Pending }
	case "msgs_to":
		key = func(i *ConnInfo) int64 { return i.OutMsgs }
	case "msgs_from":
		key = func(i *ConnInfo) int64 { return i.InMsgs }
	case "bytes_to":
		key = func(i *ConnInfo) int64 { return i.OutBytes }
	case "bytes_from":
		key = func(i *ConnInfo) int64 { return i.InBytes }
	case "last":
		key = func(i *ConnInfo) int64 { return i.LastActivity.UnixNano() }
	case "idle":
		key = func(i *ConnInfo) int64 { return -i.LastActivity.UnixNano() }
	case "rtt":
		key = func(i *ConnInfo) int64 { return int64(i.rtt) }
	default:
		return nil, fmt.Errorf("invalid sorting option: %s", name)
	}
	return func(x, y *ConnInfo) int { return cmp.Or(cmp.Compare(key(y), key(x)), cmp.Compare(x.CID, y.CID)) }, nil
}

// describe returns the state of the connection.
func (c *client) describe(now time.Time, o *ConnzOptions) *ConnInfo {
	last := time.Unix(0, c.lastIn.Load())
	i := &ConnInfo{
		CID: c.id, Kind: "Client", Type: "nats", IP: c.host, Port: c.port, Start: c.start.UTC(), LastActivity: last.UTC(),
		Uptime: uptime(now.Sub(c.start)), Idle: uptime(now.Sub(last)), InMsgs: c.inMsgs.Load(), InBytes: c.inBytes.Load(),
	}
	if conn, ok := c.nc.(*tls.Conn); ok {
		state := conn.ConnectionState()
		i.TLSVersion = tls.VersionName(state.Version)[len("TLS "):]
		i.TLSCipher = tls.CipherSuiteName(state.CipherSuite)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i.NumSubs = len(c.subs)
	if c.info != nil {
		i.Name, i.Lang, i.Version, i.User, i.Account = c.info.Name, c.info.Lang, c.info.Version, c.info.User, c.info.Account
		i.rtt = c.info.RTT()
		i.RTT = i.rtt.String()
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	i.Pending, i.OutMsgs, i.OutBytes = c.out.pending, c.out.outMsgs, c.out.outBytes
	if !o.Subscriptions && !o.SubscriptionsDetail {
		return i
	}
	for _, s := range c.subs {
		if !o.SubscriptionsDetail {
			i.Subs = append(i.Subs, s.filter)
			continue
		}
		i.SubsDetail = append(i.SubsDetail, SubDetail{
			Account: s.account.name, Subject: s.filter, Queue: s.queue, SID: string(s.sid), Msgs: s.delivered, Max: s.max, CID: c.id,
		})
	}
	return i
}

// Kick closes a client's connection.
func (b *Broker) Kick(cid uint64) error {
	b.mu.Lock()
	c := b.clients[cid]
	b.mu.Unlock()
	if c == nil {
		return fmt.Errorf("no such client id: %d", cid)
	}
	c.closeAfterFlush(closedKicked, false)
	return nil
}
