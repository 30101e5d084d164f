package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Options say what a cluster is made of.
type Options struct {
	Program string   // of the storage nodes
	Storage int      // number of storage nodes
	Routers []string // programs of the routers, one each
	Dir     string   // folder for configuration files and stores

	// Network has at least as many hosts as there are nodes; nil: all nodes are on loopback ports.
	Network *Network

	// JetStream are lines of the jetstream block of storage nodes beside store_dir.
	JetStream []string

	// Accounts are further lines of the accounts block of all nodes.
	Accounts string

	// Lines are further lines of the file of node i; nil: none.
	Lines func(i int) []string

	// Ports of clients and routes on loopback, by node; nil: free ones. In a Network they are always 4222
	// and 6222.
	Ports func(i int) (client, route int)
}

// Credentials of the administrator in every configuration file here; the file has the hash.
const (
	AdminUser     = "admin"
	AdminPassword = "pw"
)

// Node is one server of a cluster.
type Node struct {
	*Process
	Number  int
	Name    string
	Storage bool
	Conf    string // path of the configuration file

	ip       string
	client   int // port
	route    int // port
	vanished bool
}

// Cluster is a number of nodes that know each other's addresses.
type Cluster struct {
	Nodes []*Node // storage nodes first

	options Options
	clients []*nats.Conn
}

// IsMillraced reports whether a program is ours, for what only one of the programs does.
func IsMillraced(program string) bool { return strings.HasPrefix(filepath.Base(program), "millraced") }

// New writes the configuration files. It starts nothing.
func New(o Options) (*Cluster, error) {
	c := &Cluster{options: o}
	for i := range o.Storage + len(o.Routers) {
		n := &Node{Number: i, Name: fmt.Sprintf("n%d", i+1), Storage: i < o.Storage, ip: "127.0.0.1", client: 4222, route: 6222}
		program := o.Program
		if !n.Storage {
			n.Name, program = fmt.Sprintf("r%d", i-o.Storage+1), o.Routers[i-o.Storage]
		}
		n.Conf = filepath.Join(o.Dir, n.Name, "server.conf")
		if err := os.MkdirAll(filepath.Dir(n.Conf), 0o755); err != nil {
			return nil, err
		}
		n.Process = &Process{Program: program, Args: []string{"-c", n.Conf}, Log: &Log{}}
		if err := n.place(o); err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, n)
	}
	for _, n := range c.Nodes {
		if err := n.WriteConf(c.conf(n)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// place gives the node its addresses.
func (n *Node) place(o Options) error {
	switch {
	case o.Network != nil:
		n.host = o.Network.host(n.Number)
		n.ip = n.host.address().String()
	case o.Ports != nil:
		n.client, n.route = o.Ports(n.Number)
	default:
		var err error
		if n.client, err = FreePort(); err == nil {
			n.route, err = FreePort()
		}
		if err != nil {
			return err
		}
	}
	n.Addr = fmt.Sprintf("%s:%d", n.ip, n.client)
	return nil
}

// conf is the configuration file of a node: that of three machines, with what the options add.
func (c *Cluster) conf(n *Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, "server_name: %s\nlisten: %q\n", n.Name, n.Addr)
	// A plain password: a hash takes a second to compare on a busy machine.
	fmt.Fprintf(&b, "accounts {\n  $SYS { users [ { user: %s, pass: %s } ] }\n%s}\n", AdminUser, AdminPassword, c.options.Accounts)
	if n.Storage {
		fmt.Fprintf(&b, "jetstream {\n  store_dir: %q\n", n.Store())
		for _, line := range c.options.JetStream {
			fmt.Fprintf(&b, "  %s\n", line)
		}
		b.WriteString("}\n")
	}
	if c.options.Lines != nil {
		for _, line := range c.options.Lines(n.Number) {
			fmt.Fprintln(&b, line)
		}
	}
	fmt.Fprintf(&b, "cluster {\n  name: C1\n  listen: \"%s:%d\"\n  routes: [\n", n.ip, n.route)
	for _, other := range c.Storage() {
		if other != n {
			fmt.Fprintf(&b, "    \"nats://%s\"\n", other.RouteAddr())
		}
	}
	b.WriteString("  ]\n}\n")
	return b.String()
}

// WriteConf replaces the configuration file.
func (n *Node) WriteConf(text string) error { return os.WriteFile(n.Conf, []byte(text), 0o600) }

// Store is the folder of a storage node's streams.
func (n *Node) Store() string { return filepath.Join(filepath.Dir(n.Conf), "store") }

// IP is the address without a port.
func (n *Node) IP() string { return n.ip }

// RouteAddr is host:port of the node's routes.
func (n *Node) RouteAddr() string { return fmt.Sprintf("%s:%d", n.ip, n.route) }

// URL is where clients connect.
func (n *Node) URL() string { return "nats://" + n.Addr }

// Wipe deletes what the node has stored, as a new disk would. The node does not run.
func (n *Node) Wipe() error {
	if n.Running() {
		return fmt.Errorf("wipe %s: it is running", n.Name)
	}
	entries, err := os.ReadDir(n.Store())
	for _, e := range entries { // the folder itself may be a Disk
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.Store(), e.Name())))
	}
	return err
}

// Storage are the storage nodes.
func (c *Cluster) Storage() []*Node { return c.Nodes[:c.options.Storage] }

// Routers are the nodes without streams.
func (c *Cluster) Routers() []*Node { return c.Nodes[c.options.Storage:] }

// Named returns a node by its name, nil for none.
func (c *Cluster) Named(name string) *Node {
	i := slices.IndexFunc(c.Nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return c.Nodes[i]
}

// Running are the nodes that run, are not paused, and have not vanished.
func (c *Cluster) Running() []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return !n.Running() || n.Paused() || n.vanished })
}

// Start starts the nodes, all together, and returns when each greets clients.
func (c *Cluster) Start() error {
	for _, n := range c.Nodes {
		if err := n.Launch(); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		if err := n.WaitGreeting(StartTimeout); err != nil {
			return err
		}
	}
	return nil
}

// Close closes all clients, kills what runs and forgets nothing that is on disk.
func (c *Cluster) Close() error {
	for _, nc := range c.clients {
		nc.Close()
	}
	var errs []error
	for _, n := range c.Nodes {
		if n.Running() {
			errs = append(errs, n.Kill())
		}
	}
	return errors.Join(errs...)
}

// Connect returns a client of a node that connects again and again, to this node only.
func (c *Cluster) Connect(n *Node, opts ...nats.Option) (*nats.Conn, error) {
	return c.connect([]*Node{n}, append([]nats.Option{nats.IgnoreDiscoveredServers()}, opts...))
}

// ConnectAny returns a client that prefers one node and goes to another when that one is gone.
func (c *Cluster) ConnectAny(first *Node, opts ...nats.Option) (*nats.Conn, error) {
	nodes := []*Node{first}
	for _, n := range c.Nodes {
		if n != first {
			nodes = append(nodes, n)
		}
	}
	return c.connect(nodes, append([]nats.Option{nats.DontRandomize()}, opts...))
}

func (c *Cluster) connect(nodes []*Node, opts []nats.Option) (*nats.Conn, error) {
	urls := make([]string, len(nodes))
	for i, n := range nodes {
		urls[i] = n.URL()
	}
	opts = append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(10*time.Millisecond, 0),
		nats.Timeout(5 * time.Second), nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // it is what tests are for
	}, opts...)
	if c.options.Network != nil {
		opts = append(opts, nats.SetCustomDialer(dialer{c.options.Network}))
	}
	nc, err := nats.Connect(strings.Join(urls, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", nodes[0].Name, err)
	}
	c.clients = append(c.clients, nc)
	return nc, nil
}

// ConnectAdmin is Connect as the administrator, in the system account.
func (c *Cluster) ConnectAdmin(n *Node) (*nats.Conn, error) {
	return c.Connect(n, nats.UserInfo(AdminUser, AdminPassword))
}

type dialer struct{ network *Network }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.network.Dial(network, address)
}

// Split cuts the network between groups of nodes, in both directions. Clients reach all of them. A node
// in no group keeps its links.
func (c *Cluster) Split(groups ...[]*Node) {
	for i, from := range groups {
		for k, to := range groups {
			if i != k {
				c.Cut(from, to)
			}
		}
	}
}

// Cut drops what nodes send to others: in one direction only.
func (c *Cluster) Cut(from, to []*Node) { c.Link(from, to, Link{Down: true}) }

// Link changes how packets travel from nodes to others.
func (c *Cluster) Link(from, to []*Node, l Link) {
	for _, a := range from {
		for _, b := range to {
			if a != b {
				c.options.Network.Set(a.Number, b.Number, l)
			}
		}
	}
}

// Vanish pulls the cable of a node: nothing reaches it or comes from it, clients included, and nobody is
// told. A node that is killed after that is one whose power was cut.
func (c *Cluster) Vanish(n *Node) {
	n.vanished = true
	c.options.Network.Isolate(n.Number, true)
}

// Return plugs the cable of a node in again.
func (c *Cluster) Return(n *Node) {
	n.vanished = false
	c.options.Network.Isolate(n.Number, false)
}

// Others are the nodes that are not among those given.
func (c *Cluster) Others(nodes ...*Node) []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return slices.Contains(nodes, n) })
}

// Heal makes the network perfect again.
func (c *Cluster) Heal() { c.options.Network.Heal() }

// wait looks at a condition until it holds or ctx is done; it returns what was missing last.
func wait(ctx context.Context, cond func() error) error {
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
