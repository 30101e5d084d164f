package wire

import (
	"encoding/json"
	"fmt"
)

// Info is the document of an INFO line to a client or on a route; field names are the protocol's.
type Info struct {
	ServerID        string `json:"server_id"`
	ServerName      string `json:"server_name"`
	Version         string `json:"version"`
	Proto           int    `json:"proto"`
	GitCommit       string `json:"git_commit,omitempty"`
	GoVersion       string `json:"go"`
	Host            string `json:"host"`
	Port            int    `json:"port"`
	Headers         bool   `json:"headers"`
	AuthRequired    bool   `json:"auth_required,omitempty"`
	TLSRequired     bool   `json:"tls_required,omitempty"`
	TLSVerify       bool   `json:"tls_verify,omitempty"`
	TLSAvailable    bool   `json:"tls_available,omitempty"`
	MaxPayload      int64  `json:"max_payload"` // -1: no limit
	JetStream       bool   `json:"jetstream,omitempty"`
	ClientID        uint64 `json:"client_id,omitempty"`
	ClientIP        string `json:"client_ip,omitempty"`
	Nonce           string `json:"nonce,omitempty"`
	LameDuck        bool   `json:"ldm,omitempty"`
	ConnectInfo     bool   `json:"connect_info,omitempty"`   // the answer to CONNECT
	RemoteAccount   string `json:"remote_account,omitempty"` // account the client is bound to
	IsSystemAccount bool   `json:"acc_is_sys,omitempty"`
	APILevel        int    `json:"api_lvl,omitempty"`

	Cluster        string   `json:"cluster,omitempty"`
	ClusterDynamic bool     `json:"cluster_dynamic,omitempty"` // the name was made up
	Domain         string   `json:"domain,omitempty"`
	ConnectURLs    []string `json:"connect_urls,omitempty"` // host:port of servers a client may turn to

	// Of routes.
	IP            string `json:"ip,omitempty"`              // URL at which the server takes routes
	LeafOrigin    bool   `json:"lnoc,omitempty"`            // takes LS+ and LMSG
	LeafUnsub     bool   `json:"lnocu,omitempty"`           // takes LS- with the origin
	RoutePoolSize int    `json:"route_pool_size,omitempty"` // 0: one connection
	RouteAccount  string `json:"route_account,omitempty"`   // the only account of this connection
	RouteRequest  string `json:"route_acc_add_reqid,omitempty"`
	Gateway       string `json:"gateway,omitempty"`
	Compression   string `json:"compression,omitempty"` // mode; empty: not supported
	GossipMode    int    `json:"gossip_mode,omitempty"`
	// RouteStandby says that the server keeps a second connection with a peer open until the peer
	// has chosen one. It is an addition to the protocol that nats-server ignores.
	RouteStandby bool `json:"route_standby,omitempty"`
	// Millrace is there on routes of servers of ours; nats-server ignores it.
	Millrace *MillraceInfo `json:"millrace,omitempty"`
}

// MillraceInfo is what servers of ours tell each other on routes.
type MillraceInfo struct {
	Node    string `json:"node,omitempty"`       // id of a server with streams, 16 hexadecimal digits; empty: it has none
	Cluster string `json:"cluster_id,omitempty"` // of its streams, 32 hexadecimal digits; empty: in none yet
}

// ParseInfo reads the JSON of an INFO line.
func ParseInfo(doc []byte) (Info, error) {
	var info Info
	if err := json.Unmarshal(doc, &info); err != nil {
		return Info{}, fmt.Errorf("parse INFO: %w", err)
	}
	return info, nil
}

// AppendInfo appends the INFO line of info.
func AppendInfo(dst []byte, info *Info) []byte {
	doc, err := json.Marshal(info)
	if err != nil {
		panic("BUG: marshal of Info: " + err.Error())
	}
	return AppendInfoDoc(dst, doc)
}

// AppendInfoDoc appends the INFO line of a document.
func AppendInfoDoc(dst, doc []byte) []byte {
	dst = append(dst, "INFO "...)
	dst = append(dst, doc...)
	return append(dst, CRLF...)
}

// Connect is the document of a CONNECT line.
type Connect struct {
	Verbose      bool   `json:"verbose"`
	Pedantic     bool   `json:"pedantic"`
	TLSRequired  bool   `json:"tls_required"`
	Echo         bool   `json:"echo"`
	Nkey         string `json:"nkey,omitempty"`
	Sig          string `json:"sig,omitempty"`
	JWT          string `json:"jwt,omitempty"`
	Token        string `json:"auth_token,omitempty"`
	User         string `json:"user,omitempty"`
	Pass         string `json:"pass,omitempty"`
	Name         string `json:"name"`
	Lang         string `json:"lang"`
	Version      string `json:"version"`
	Protocol     int    `json:"protocol"` // 1: the client takes INFO at any time
	Account      string `json:"account,omitempty"`
	AccountNew   bool   `json:"new_account,omitempty"`
	Headers      bool   `json:"headers,omitempty"`
	NoResponders bool   `json:"no_responders,omitempty"`
}

// RouteConnect is the document of the CONNECT line by which a server opens a route.
type RouteConnect struct {
	Echo           bool   `json:"echo"`
	Verbose        bool   `json:"verbose"`
	Pedantic       bool   `json:"pedantic"`
	User           string `json:"user,omitempty"`
	Pass           string `json:"pass,omitempty"`
	TLSRequired    bool   `json:"tls_required"`
	Name           string `json:"name"` // server id
	Lang           string `json:"lang,omitempty"`
	Headers        bool   `json:"headers"`
	Cluster        string `json:"cluster"`
	ClusterDynamic bool   `json:"cluster_dynamic,omitempty"`
	LeafOrigin     bool   `json:"lnoc,omitempty"`
	LeafUnsub      bool   `json:"lnocu,omitempty"`
	Gateway        string `json:"gateway,omitempty"`
}

// Parse sets the fields that the JSON of a CONNECT line names.
func (c *RouteConnect) Parse(doc []byte) error {
	if err := json.Unmarshal(doc, c); err != nil {
		return fmt.Errorf("parse CONNECT of a route: %w", err)
	}
	return nil
}

// AppendRouteConnect appends the CONNECT line of c.
func AppendRouteConnect(dst []byte, c *RouteConnect) []byte {
	doc, err := json.Marshal(c)
	if err != nil {
		panic("BUG: marshal of RouteConnect: " + err.Error())
	}
	dst = append(dst, "CONNECT "...)
	dst = append(dst, doc...)
	return append(dst, CRLF...)
}

// DefaultConnect is what holds for a client that has not sent CONNECT, and for fields that its
// CONNECT leaves out.
func DefaultConnect() Connect { return Connect{Verbose: true, Pedantic: true, Echo: true} }

// Parse sets the fields that the JSON of a CONNECT line names.
func (c *Connect) Parse(doc []byte) error {
	if err := json.Unmarshal(doc, c); err != nil {
		return fmt.Errorf("parse CONNECT: %w", err)
	}
	return nil
}
