package broker

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Subjects of the system services.
const (
	userInfoSubject   = "$SYS.REQ.USER.INFO"
	serverPingSubject = "$SYS.REQ.SERVER.PING"
	serverSubject     = "$SYS.REQ.SERVER."
)

// ServerInfo names a server in system messages; field names are nats-server's.
type ServerInfo struct {
	Name      string    `json:"name"`
	Host      string    `json:"host"`
	ID        string    `json:"id"`
	Cluster   string    `json:"cluster,omitempty"`
	Domain    string    `json:"domain,omitempty"`
	Tags      []string  `json:"tags,omitempty"`
	Version   string    `json:"ver"`
	JetStream bool      `json:"jetstream"`
	Flags     uint64    `json:"flags"` // 1: JetStream
	Seq       uint64    `json:"seq"`   // of the messages of this server
	Time      time.Time `json:"time"`
}

// ServerInfo returns the description of this server for one more system message.
func (b *Broker) ServerInfo() ServerInfo {
	info := ServerInfo{
		Name: b.cfg.ServerName, Host: b.cfg.Host, ID: b.id, Version: b.cfg.Version, JetStream: b.cfg.JetStream,
		Seq: b.systemSeq.Add(1), Time: time.Now().UTC(), Cluster: b.Cluster(),
		Domain: b.cfg.Domain, Tags: b.cfg.Tags,
	}
	if info.JetStream {
		info.Flags = 1
	}
	return info
}

// Cluster returns the present name of the cluster; empty: there is none.
func (b *Broker) Cluster() string {
	if b.mesh == nil {
		return ""
	}
	return b.mesh.clients.Load().name
}

// response is the envelope of answers to requests to a server.
type response struct {
	Server ServerInfo      `json:"server"`
	Data   json.RawMessage `json:"data,omitempty"`
	Error  *responseError  `json:"error,omitempty"`
}

type responseError struct {
	Code        int    `json:"code"`
	Description string `json:"description,omitempty"`
}

// serverFilter are the fields of a request by which a server finds out whether it is meant.
type serverFilter struct {
	Name       string   `json:"server_name"`
	Cluster    string   `json:"cluster"`
	Host       string   `json:"host"`
	ExactMatch bool     `json:"exact_match"`
	Tags       []string `json:"tags"`
	Domain     string   `json:"domain"`
}

// meant reports whether this server is among those the request is for.
func (f *serverFilter) meant(b *Broker) bool {
	same := strings.Contains
	if f.ExactMatch {
		same = func(have, want string) bool { return have == want }
	}
	return (f.Name == "" || same(b.cfg.ServerName, f.Name)) && (f.Host == "" || same(b.cfg.Host, f.Host)) &&
		(f.Cluster == "" || same(b.Cluster(), f.Cluster)) &&
		(f.Domain == "" || f.Domain == b.cfg.Domain) && !slices.ContainsFunc(f.Tags, func(tag string) bool {
		return !slices.Contains(b.cfg.Tags, strings.ToLower(strings.TrimSpace(tag)))
	})
}

// ServeServerRequest makes this server answer the requests $SYS.REQ.SERVER.PING.<verb> and
// $SYS.REQ.SERVER.<id>.<verb> of the system account with what answer returns for their payload, in
// the usual envelope. The function runs on the requester's goroutine.
func (b *Broker) ServeServerRequest(verb string, answer func(request []byte) (any, error)) error {
	return b.ServeServerRequestLater(verb, func(request []byte, done func(any, error)) { done(answer(request)) })
}

// ServeServerRequestLater is ServeServerRequest for what takes time: answer, which may keep request, returns
// at once and calls done when it knows, from any goroutine. A request for which it never does is not
// answered.
func (b *Broker) ServeServerRequestLater(verb string, answer func(request []byte, done func(any, error))) error {
	handle := func(m *Msg) {
		if len(m.Reply) == 0 {
			return
		}
		reply := string(m.Reply)
		var filter serverFilter
		if len(m.Data) > 0 {
			if err := json.Unmarshal(m.Data, &filter); err != nil {
				b.answerServerRequest(reply, nil, err, 400)
				return
			}
		}
		if filter.meant(b) {
			answer(bytes.Clone(m.Data), func(data any, err error) { b.answerServerRequest(reply, data, err, 500) })
		}
	}
	return b.serveServer(verb, handle)
}

// answerServerRequest answers with data or, in its place, an error.
func (b *Broker) answerServerRequest(reply string, data any, err error, code int) {
	r := response{Server: b.ServerInfo()}
	if err == nil && data != nil {
		r.Data, err = json.Marshal(data)
	}
	if err != nil {
		r.Data, r.Error = nil, &responseError{code, err.Error()}
	}
	b.publishJSON(b.system, reply, r)
}

// serveServer subscribes to a verb of server requests, asked of all servers and of this one.
func (b *Broker) serveServer(verb string, handle func(*Msg)) error {
	for _, subject := range []string{serverPingSubject + "." + verb, serverSubject + b.id + "." + verb} {
		if _, err := b.system.Subscribe(subject, "", handle); err != nil {
			return fmt.Errorf("serve %q: %w", subject, err)
		}
	}
	return nil
}

// publishJSON publishes a document that can always be marshalled.
func (b *Broker) publishJSON(a *Account, subject string, doc any) {
	data, err := json.Marshal(doc)
	if err != nil {
		panic("BUG: marshal of system message: " + err.Error())
	}
	a.Publish(subject, "", nil, data)
}

// startServices subscribes the services that every broker has.
func (b *Broker) startServices() error {
	for _, a := range b.accounts {
		if err := a.subscribePrivately(userInfoSubject, b.answerUserInfo); err != nil {
			return err
		}
	}
	statsz := func(m *Msg) {
		var filter serverFilter
		if len(m.Reply) == 0 || (len(m.Data) > 0 && json.Unmarshal(m.Data, &filter) != nil) || !filter.meant(b) {
			return
		}
		b.publishJSON(b.system, string(m.Reply), b.Statsz())
	}
	if _, err := b.system.Subscribe(serverPingSubject, "", statsz); err != nil {
		return err
	}
	if b.mesh != nil {
		if err := b.mesh.serveEnded(); err != nil {
			return err
		}
	}
	if err := b.serveServer("STATSZ", statsz); err != nil {
		return err
	}
	if err := b.serveServer("IDZ", func(m *Msg) {
		if len(m.Reply) > 0 {
			b.publishJSON(b.system, string(m.Reply), serverID{b.cfg.ServerName, b.cfg.Host, b.id})
		}
	}); err != nil {
		return err
	}
	if err := b.ServeServerRequest("VARZ", func([]byte) (any, error) { return b.Varz(), nil }); err != nil {
		return err
	}
	if err := b.ServeServerRequest("CONNZ", func(request []byte) (any, error) {
		var o ConnzOptions
		if len(request) > 0 {
			if err := json.Unmarshal(request, &o); err != nil {
				return nil, fmt.Errorf("parse request: %w", err)
			}
		}
		return b.Connz(o)
	}); err != nil {
		return err
	}
	if err := b.ServeServerRequest("ROUTEZ", func([]byte) (any, error) { return b.Routez(), nil }); err != nil {
		return err
	}
	return b.ServeServerRequest("KICK", func(request []byte) (any, error) {
		var o struct {
			CID uint64 `json:"cid"`
		}
		if err := json.Unmarshal(request, &o); err != nil {
			return nil, fmt.Errorf("parse request: %w", err)
		}
		return nil, b.Kick(o.CID)
	})
}

type serverID struct {
	Name string `json:"name"`
	Host string `json:"host"`
	ID   string `json:"id"`
}

// userInfo is the answer to $SYS.REQ.USER.INFO.
type userInfo struct {
	User        string           `json:"user"`
	Account     string           `json:"account"`
	AccountName string           `json:"account_name,omitempty"`
	Permissions *permissionsInfo `json:"permissions,omitempty"`
}

type permissionsInfo struct {
	Publish   subjectInfo   `json:"publish"`
	Subscribe subjectInfo   `json:"subscribe"`
	Responses *responseInfo `json:"responses,omitempty"`
}

type subjectInfo struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

type responseInfo struct {
	MaxMsgs int           `json:"max"`
	Expires time.Duration `json:"ttl"`
}

// answerUserInfo tells a user who it is and what it may do.
func (b *Broker) answerUserInfo(m *Msg) {
	if len(m.Reply) == 0 || m.Client == nil {
		return
	}
	info := userInfo{User: m.Client.User, Account: m.Client.Account, AccountName: m.Client.Account}
	if p := m.Client.permissions; p != nil {
		out := &permissionsInfo{}
		if c := p.config.Publish; c != nil {
			out.Publish = subjectInfo(*c)
		}
		if c := p.config.Subscribe; c != nil {
			out.Subscribe = subjectInfo(*c)
		}
		if r := p.responses; r != nil {
			out.Responses = &responseInfo{r.MaxMsgs, r.Expires}
		}
		info.Permissions = out
	}
	b.publishJSON(m.Account, string(m.Reply), struct {
		Server ServerInfo `json:"server"`
		Data   userInfo   `json:"data"`
	}{b.ServerInfo(), info})
}

// clientEvent is an advisory about a connection; the last fields are those of its end.
type clientEvent struct {
	Type     string        `json:"type"`
	ID       string        `json:"id"`
	Time     time.Time     `json:"timestamp"`
	Server   ServerInfo    `json:"server"`
	Client   eventClient   `json:"client"`
	Sent     *trafficCount `json:"sent,omitempty"`
	Received *trafficCount `json:"received,omitempty"`
	Reason   string        `json:"reason,omitempty"`
}

type eventClient struct {
	Start      time.Time     `json:"start"`
	Stop       *time.Time    `json:"stop,omitempty"`
	Host       string        `json:"host,omitempty"`
	ID         uint64        `json:"id"`
	Account    string        `json:"acc"`
	User       string        `json:"user,omitempty"`
	Name       string        `json:"name,omitempty"`
	Lang       string        `json:"lang,omitempty"`
	Version    string        `json:"ver,omitempty"`
	RTT        time.Duration `json:"rtt,omitempty"`
	Kind       string        `json:"kind"`
	ClientType string        `json:"client_type"`
}

// sendClientEvent publishes the advisory that a client has connected, or with a reason that its
// connection has ended, if someone in the system account wants to know.
func (c *client) sendClientEvent(reason closeReason) {
	info := c.info
	if info == nil {
		return
	}
	kind, schema := "CONNECT", "client_connect"
	if reason != "" {
		kind, schema = "DISCONNECT", "client_disconnect"
	}
	subject := "$SYS.ACCOUNT." + info.Account + "." + kind
	if !c.b.system.HasInterest(subject) {
		return
	}
	now := time.Now().UTC()
	e := clientEvent{
		Type: "io.nats.server.advisory.v1." + schema, ID: rand.Text(), Time: now, Server: c.b.ServerInfo(),
		Client: eventClient{
			Start: info.Start, Host: info.Host, ID: info.ID, Account: info.Account, User: info.User, Name: info.Name,
			Lang: info.Lang, Version: info.Version, RTT: info.RTT(), Kind: "Client", ClientType: "nats",
		},
	}
	if reason != "" {
		e.Client.Stop = &now
		e.Reason = string(reason)
		c.out.mu.Lock()
		e.Sent = &trafficCount{c.out.outMsgs, c.out.outBytes}
		c.out.mu.Unlock()
		e.Received = &trafficCount{c.inMsgs.Load(), c.inBytes.Load()}
	}
	c.b.publishJSON(c.b.system, subject, e)
}
