package node

import (
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"millrace/appliance/server/broker"
)

// Cluster is the node's place in a cluster.
type Cluster struct {
	Name   string   // empty: made up, and given up for that of a peer; a node with streams needs one
	Host   string   // address to listen on for routes; default 0.0.0.0
	Port   int      // TCP port for routes; 0: the kernel picks a free one
	Routes []string // URLs of other nodes, with or without credentials

	User        string        // what peers show; empty: everyone may connect
	Password    string        // plain, or a bcrypt hash
	AuthTimeout time.Duration // for the handshake; default 2 s, 3 s with TLS
	TLS         TLS           // of both sides of a route

	Advertise   string // host:port that peers are told to dial; empty: where they see this node
	NoAdvertise bool   // clients hear only of the node they are connected to
	Compression string // of routes: a mode of package broker; default "accept"

	ConnectRetries int           // attempts to reach a node known by gossip; default 60
	ConnectBackoff bool          // the time between attempts grows
	PingInterval   time.Duration // default that of clients, at most 30 s
	PingMax        int           // default that of clients
	WriteDeadline  time.Duration // default that of clients
}

// clusterBlock reads the cluster block.
func (c *checker) clusterBlock(v value, s *Settings) {
	c.cluster = v
	cl := &Cluster{Host: defaultHost, TLS: TLS{Timeout: 2 * time.Second}, Compression: broker.CompressionAccept}
	s.Cluster = cl
	port := c.port(&cl.Port, 0)
	listens := false
	heard := func(read func(value)) func(value) {
		return func(v value) { listens = true; read(v) }
	}
	c.block(v, schema{
		fields: map[string]func(value){
			"name":              func(v value) { c.clusterName = v; c.nodeName(&cl.Name)(v) },
			"listen":            heard(c.onlyListen(&c.clusterListen, c.hostPort(&cl.Host, port))),
			"host":              c.onlyListen(&c.clusterListen, c.str(&cl.Host)),
			"port":              heard(c.onlyListen(&c.clusterListen, port)),
			"routes":            func(v value) { cl.Routes = c.routes(v) },
			"authorization":     func(v value) { c.clusterAuthorization(v, cl) },
			"tls":               func(v value) { c.clusterTLSAt = v; c.tls(v, &cl.TLS) },
			"cluster_advertise": func(v value) { c.advertise(v, cl) },
			"no_advertise":      c.flag(&cl.NoAdvertise),
			"connect_retries":   number(c, &cl.ConnectRetries, 0, math.MaxInt32),
			"connect_backoff":   c.flag(&cl.ConnectBackoff),
			"ping_interval":     c.duration(&cl.PingInterval, time.Millisecond, true),
			"ping_max":          number(c, &cl.PingMax, 1, math.MaxInt32),
			"write_deadline":    c.duration(&cl.WriteDeadline, time.Millisecond, true),
			"pool_size":         c.poolSize,
			"compression":       func(v value) { c.routeCompression(v, cl) },
		},
		aliases:     map[string]string{"net": "host", "advertise": "cluster_advertise"},
		unsupported: unsupportedCluster,
	})
	if _, block := v.raw.(map[string]any); block && !listens {
		c.fail(v, "needs a listen address or a port for routes")
	}
	if cl.AuthTimeout == 0 {
		cl.AuthTimeout = 2 * time.Second
		if cl.TLS.CertFile != "" {
			cl.AuthTimeout = cl.TLS.Timeout + time.Second
		}
	}
}

// routes reads the URLs of other nodes. No message shows their passwords.
func (c *checker) routes(v value) []string {
	list, ok := v.raw.([]any)
	if !ok {
		c.fail(v, "want a list of URLs [ nats://host:6222, … ]")
		return nil
	}
	var routes []string
	for _, item := range v.items(list) {
		text, ok := item.raw.(string)
		if !ok {
			c.want(item, "a URL such as nats://host:6222")
			continue
		}
		u, err := url.Parse(text)
		switch {
		case err != nil:
			c.fail(item, "want a URL such as nats://host:6222")
		case u.Scheme != "nats" && u.Scheme != "nats-route" && u.Scheme != "tls":
			c.fail(item, "want a URL such as nats://host:6222, got scheme %q", u.Scheme)
		case u.Hostname() == "" || u.Port() == "":
			c.fail(item, "want a URL with host and port, such as nats://host:6222, got %q", u.Redacted())
		case slices.Contains(routes, text):
			c.fail(item, "route %q is given twice", u.Redacted())
		default:
			routes = append(routes, text)
		}
	}
	return routes
}

// clusterAuthorization reads the one user of routes.
func (c *checker) clusterAuthorization(v value, cl *Cluster) {
	c.block(v, schema{
		fields: map[string]func(value){
			"user":    c.str(&cl.User),
			"pass":    c.password(&cl.Password),
			"timeout": c.duration(&cl.AuthTimeout, time.Millisecond, true),
		},
		aliases:     map[string]string{"username": "user", "password": "pass"},
		unsupported: []string{"auth_callout", "default_permissions", "permissions", "token", "users"},
	})
	if (cl.User == "") != (cl.Password == "") {
		c.fail(v, "needs both a user and a pass, or neither")
	}
}

// advertise reads the address that peers are told; without a port it is that of the routes.
func (c *checker) advertise(v value, cl *Cluster) {
	c.str(&cl.Advertise)(v)
	if _, _, err := net.SplitHostPort(cl.Advertise); err != nil && strings.Contains(cl.Advertise, ":") {
		c.fail(v, "want \"host\" or \"host:port\", got %q", cl.Advertise)
	}
}

// poolSize takes what means one connection with every peer, which is what there is.
func (c *checker) poolSize(v value) {
	size := 0
	number(c, &size, unlimited, math.MaxInt32)(v)
	if size > 1 {
		c.fail(v, "more than 1 is not supported by this version: there is one connection with every peer, also with those that have a pool")
	}
}

// compressionModes are nats-server's words for the modes of routes.
var compressionModes = map[string]string{
	"off": broker.CompressionOff, "disabled": broker.CompressionOff, "not supported": broker.CompressionOff,
	"not_supported": broker.CompressionOff, "accept": broker.CompressionAccept,
	"on": broker.CompressionFast, "enabled": broker.CompressionFast,
	"s2_uncompressed": broker.CompressionUncompressed, "uncompressed": broker.CompressionUncompressed,
	"s2_fast": broker.CompressionFast, "fast": broker.CompressionFast,
	"s2_better": broker.CompressionBetter, "better": broker.CompressionBetter,
	"s2_best": broker.CompressionBest, "best": broker.CompressionBest,
}

// routeCompression reads the mode of compression.
func (c *checker) routeCompression(v value, cl *Cluster) {
	switch raw := v.raw.(type) {
	case bool:
		cl.Compression = broker.CompressionOff
		if raw {
			cl.Compression = broker.CompressionFast
		}
	case string:
		word := strings.ToLower(raw)
		mode, ok := compressionModes[word]
		switch {
		case ok:
			cl.Compression = mode
		case word == "s2_auto" || word == "auto":
			c.fail(v, "%q is not supported by this version: choose a level, such as s2_fast", raw)
		default:
			c.want(v, "off, accept, s2_fast, s2_better, s2_best or s2_uncompressed")
		}
	case map[string]any:
		c.fail(v, "a block is not supported by this version: choose a level, such as s2_fast")
	default:
		c.want(v, "off, accept, s2_fast, s2_better, s2_best or s2_uncompressed")
	}
}

// finishCluster checks what a cluster needs of the rest of the file.
func (c *checker) finishCluster(s *Settings) {
	cl := s.Cluster
	if cl == nil || !s.JetStream.Enabled {
		return
	}
	const why = "a node with jetstream in a cluster is known to the others by it"
	if s.ServerName == "" && c.serverName.path == "" {
		c.failKey(c.cluster, "server_name is missing: %s", why)
	}
	if cl.Name == "" && c.clusterName.path == "" {
		c.fail(c.cluster, "name is missing: %s", why)
	}
}

// brokerConfig returns what the settings mean for the broker.
func (cl *Cluster) brokerConfig() (*broker.ClusterConfig, error) {
	cfg := &broker.ClusterConfig{
		Name: cl.Name, Host: cl.Host, Routes: cl.Routes, User: cl.User, Password: cl.Password, AuthTimeout: cl.AuthTimeout,
		TLSTimeout: cl.TLS.Timeout, Advertise: cl.Advertise, NoAdvertise: cl.NoAdvertise,
		Compression: cl.Compression, ConnectRetries: cl.ConnectRetries, ConnectBackoff: cl.ConnectBackoff,
		PingInterval: cl.PingInterval, MaxPingsOut: cl.PingMax, WriteDeadline: cl.WriteDeadline,
	}
	if cfg.Advertise != "" {
		if _, _, err := net.SplitHostPort(cfg.Advertise); err != nil {
			cfg.Advertise = net.JoinHostPort(cfg.Advertise, fmt.Sprint(cl.Port))
		}
	}
	if cl.TLS.CertFile == "" {
		return cfg, nil
	}
	var err error
	if cfg.TLS, err = cl.TLS.config(); err != nil {
		return nil, err
	}
	cfg.TLS.RootCAs = cfg.TLS.ClientCAs
	cfg.TLS.ClientAuth = requireClientCert // as nats-server: both sides of a route are verified
	return cfg, nil
}
