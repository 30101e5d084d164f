package broker

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

// Defaults of ClusterConfig; those of nats-server but for DefaultConnectRetries.
const (
	DefaultRoutePing = 30 * time.Second
	// DefaultConnectRetries is more than nats-server's 0: two servers that know each other by
	// gossip only shall find together again after the network between them was down for a while.
	DefaultConnectRetries = 60
)

// ClusterConfig makes a server one of a cluster: connected by a route with every other server of it.
type ClusterConfig struct {
	Name   string   // of the cluster; empty: made up, and given up for that of a peer
	Host   string   // in the INFO of routes; empty: "0.0.0.0"
	Routes []string // URLs of other servers, such as "nats://user:pass@host:6222"

	// User and Password are what peers have to show, and what this server shows to peers whose URL
	// has no credentials. The password may be a bcrypt hash. Empty: everyone may connect.
	User, Password string
	AuthTimeout    time.Duration // for the handshake after TLS; 0: 2 s

	// TLS is the configuration of either side of a route: certificate, roots and client roots; nil: plain.
	TLS        *tls.Config
	TLSTimeout time.Duration // for the handshake; 0: 2 s

	Advertise   string // host:port that peers are told to dial; empty: where they see this server
	NoAdvertise bool   // clients are not told of the other servers, nor theirs of this one

	Compression string // one of the modes; empty: CompressionAccept

	Storage *StorageConfig // of a server with streams; nil: this one has none

	ConnectRetries int           // attempts to reach a server known by gossip; 0: 60
	ConnectBackoff bool          // the time between attempts doubles, up to 30 s
	PingInterval   time.Duration // between PINGs; 0: that of clients, but not more than 30 s
	MaxPingsOut    int           // unanswered PINGs before the route is stale; 0: that of clients
	WriteDeadline  time.Duration // for one blocked write; 0: that of clients
}

// withDefaults returns c with every zero value replaced by its default.
func (c ClusterConfig) withDefaults(b *Config) *ClusterConfig {
	setDefault(&c.Host, "0.0.0.0")
	setDefault(&c.AuthTimeout, DefaultAuthTimeout)
	setDefault(&c.Compression, CompressionAccept)
	setDefault(&c.TLSTimeout, DefaultTLSTimeout)
	setDefault(&c.ConnectRetries, DefaultConnectRetries)
	setDefault(&c.PingInterval, b.PingInterval)
	c.PingInterval = min(c.PingInterval, DefaultRoutePing)
	setDefault(&c.MaxPingsOut, b.MaxPingsOut)
	setDefault(&c.WriteDeadline, b.WriteDeadline)
	return &c
}

// validate reports the first thing in c that no server can be one of a cluster with.
func (c *ClusterConfig) validate() error {
	if strings.ContainsAny(c.Name, " \t\r\n") {
		return fmt.Errorf("broker config: cluster name %q has white space", c.Name)
	}
	for _, r := range c.Routes {
		if _, err := parseRoute(r); err != nil {
			return fmt.Errorf("broker config: %w", err)
		}
	}
	switch c.Compression {
	case CompressionOff, CompressionAccept, CompressionUncompressed, CompressionFast, CompressionBetter, CompressionBest:
	default:
		return fmt.Errorf("broker config: cluster compression %q is unknown", c.Compression)
	}
	if (c.User == "") != (c.Password == "") {
		return fmt.Errorf("broker config: cluster user and password go together")
	}
	if c.Advertise != "" {
		if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
			return fmt.Errorf("broker config: cluster advertise: %w", err)
		}
	}
	if s := c.Storage; s != nil {
		switch {
		case s.Node == 0:
			return fmt.Errorf("broker config: cluster: Storage.Node is 0")
		case (s.Preamble == "") != (s.Carry == nil):
			return fmt.Errorf("broker config: cluster: Storage.Preamble and Carry go together")
		case s.Preamble != "" && s.Preamble[0] < 0x80:
			return fmt.Errorf("broker config: cluster: Storage.Preamble %q begins like a protocol of text", s.Preamble)
		}
	}
	for name, n := range map[string]int64{
		"AuthTimeout": int64(c.AuthTimeout), "TLSTimeout": int64(c.TLSTimeout), "ConnectRetries": int64(c.ConnectRetries),
		"PingInterval": int64(c.PingInterval), "MaxPingsOut": int64(c.MaxPingsOut), "WriteDeadline": int64(c.WriteDeadline),
	} {
		if n < 0 {
			return fmt.Errorf("broker config: cluster: %s is negative: %d", name, n)
		}
	}
	return nil
}

// parseRoute reads the URL of another server.
func parseRoute(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse route: %w", err)
	}
	if u.Hostname() == "" || u.Port() == "" {
		return nil, fmt.Errorf("route %q: want scheme://host:port", u.Redacted())
	}
	return u, nil
}

// clientURLs returns where clients reach a listener: its address, or the addresses of the machine
// when it listens on all.
func clientURLs(host string, port int) []string {
	p := fmt.Sprint(port)
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsUnspecified() {
		return []string{net.JoinHostPort(host, p)}
	}
	var urls []string
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			urls = append(urls, net.JoinHostPort(n.IP.String(), p))
		}
	}
	return urls
}
