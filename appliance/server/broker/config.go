package broker

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"millrace/appliance/server/subject"
)

// Names of the accounts every broker has.
const (
	GlobalAccount        = "$G"   // bound to connections when no account is configured for them
	DefaultSystemAccount = "$SYS" // the system account unless Config.SystemAccount names another
)

// Defaults of Config; they equal nats-server's.
const (
	DefaultMaxPayload     = 1 << 20
	DefaultMaxPending     = 64 << 20
	DefaultMaxControlLine = 4096
	DefaultMaxConns       = 64 << 10
	DefaultPingInterval   = 2 * time.Minute
	DefaultMaxPingsOut    = 2
	DefaultWriteDeadline  = 10 * time.Second
	DefaultAuthTimeout    = 2 * time.Second
	DefaultTLSTimeout     = 2 * time.Second

	DefaultResponseMaxMsgs = 1               // AllowResponses.MaxMsgs when zero
	DefaultResponseExpires = 2 * time.Minute // AllowResponses.Expires when zero
)

// Config is everything a Broker is told. The zero value is a server that accepts every client into
// the account $G.
type Config struct {
	ServerName string // INFO server_name; empty: the server id
	Version    string // INFO version, which clients gate features on; empty: "2.15.0"
	GitCommit  string // INFO git_commit; empty: left out
	Host       string // INFO host; empty: "0.0.0.0"
	Port       int    // INFO port; 0: 4222
	NoHeaders  bool   // clients may not use message headers

	JetStream bool // INFO jetstream: streams are served behind this broker
	APILevel  int  // INFO api_lvl; 0: left out

	// Tags and Domain, that of its streams, are told of this server, and requests to servers may be for those that have them.
	Tags   []string
	Domain string

	Accounts      []AccountConfig // beside them $G and the system account always exist
	SystemAccount string          // account of the system services; empty: "$SYS"
	NoAuthUser    string          // user name or nkey of a connection without credentials; empty: none
	Token         string          // authorization token, plain or bcrypt, bound to $G; empty: none

	MaxPayload     int64         // bytes of header and data of one message; 0: 1 MiB; negative: no limit
	MaxPending     int64         // bytes waiting for one client before it is cut off; 0: 64 MiB
	MaxControlLine int           // bytes of a protocol line after its verb; 0: 4096
	MaxConns       int           // client connections; 0: 65536; negative: none are accepted
	MaxSubs        int           // subscriptions of one connection; 0: no limit
	MaxSubTokens   int           // tokens of a subscription's subject; 0: no limit
	PingInterval   time.Duration // between PINGs to an idle client; 0: 2 min
	MaxPingsOut    int           // unanswered PINGs before the connection is stale; 0: 2
	WriteDeadline  time.Duration // for one blocked write to a client; 0: 10 s
	AuthTimeout    time.Duration // from connect to CONNECT when authentication is required; 0: 2 s

	// TLS makes client connections use TLS, after the INFO line as NATS does; nil: plain.
	TLS               *tls.Config
	TLSTimeout        time.Duration // for the handshake; 0: 2 s
	TLSHandshakeFirst bool          // handshake before INFO
	AllowNonTLS       bool          // with TLS: plain clients are served too (tls_available)

	Cluster *ClusterConfig // nil: this server is alone

	// CarrierReply are the replies that, on a route, take along the subject that receivers are to see
	// when it is not the one they subscribe to; the zero value: none do.
	CarrierReply CarrierReply

	// Standing are requests whose clients are told when another server takes over; the zero value: none.
	Standing StandingRequests

	// ReservedReplies are prefixes that clients may not use as a reply subject (such as "$JS.ACK.");
	// a publish with such a reply gets a permissions violation.
	ReservedReplies []string

	// VarzExtension returns top-level fields that VARZ has beside the broker's own; nil: none. It is
	// called from any goroutine.
	VarzExtension func() map[string]any

	Logger *slog.Logger // nil: nothing is logged
}

// CarrierReply describes reply subjects such as "$JS.ACK.…@orders.new" on a route.
type CarrierReply struct {
	Prefix string // of the subject; empty: there are none
	Tokens int    // of the subject at least, before the '@'
}

// matches reports whether reply can take a subject along.
func (c CarrierReply) matches(reply []byte) bool {
	return c.Prefix != "" && len(reply) > len(c.Prefix) && str(reply[:len(c.Prefix)]) == c.Prefix
}

// at returns the place of the '@' before the subject that reply takes along, 0 if it takes none.
func (c CarrierReply) at(reply []byte) int {
	if !c.matches(reply) {
		return 0
	}
	tokens := 1
	for i, b := range reply {
		switch {
		case b == subject.Sep:
			tokens++
		case b == '@' && tokens >= c.Tokens && i < len(reply)-1:
			return i
		}
	}
	return 0
}

// AccountConfig describes one account: an isolated subject space and its users.
type AccountConfig struct {
	Name       string
	Users      []UserConfig
	MaxConns   int   // client connections bound to the account; 0: no limit
	MaxSubs    int   // subscriptions of each of its connections; 0: no limit
	MaxPayload int64 // bytes of one message of its clients; 0: no limit of its own
}

// UserConfig is one user. Exactly one of User and Nkey is set.
type UserConfig struct {
	User        string
	Pass        string       // plain, or a bcrypt hash ("$2a$…")
	Nkey        string       // public user nkey ("U…"); the client signs the nonce of INFO
	Permissions *Permissions // nil: everything is allowed
}

// Permissions limit what a user may publish and subscribe to.
type Permissions struct {
	Publish        *SubjectPermission  // nil: all subjects
	Subscribe      *SubjectPermission  // nil: all subjects; entries may read "subject queue"
	AllowResponses *ResponsePermission // replies to received requests may be published
}

// SubjectPermission lists filters. A nil Allow allows everything that Deny does not name; an empty
// Publish.Allow that is not nil allows nothing. With AllowResponses set a nil Publish.Allow counts
// as empty.
type SubjectPermission struct {
	Allow []string
	Deny  []string
}

// ResponsePermission lets a user publish to the reply subjects of messages it received.
type ResponsePermission struct {
	MaxMsgs int           // messages to each reply subject; 0: 1; negative: no limit
	Expires time.Duration // validity after the request was delivered; 0: 2 min; negative: no limit
}

// withDefaults returns c with every zero value replaced by its default.
func (c Config) withDefaults() Config {
	setDefault(&c.Version, "2.15.0")
	setDefault(&c.Host, "0.0.0.0")
	setDefault(&c.Port, 4222)
	setDefault(&c.SystemAccount, DefaultSystemAccount)
	setDefault(&c.MaxPayload, DefaultMaxPayload)
	setDefault(&c.MaxPending, DefaultMaxPending)
	setDefault(&c.MaxControlLine, DefaultMaxControlLine)
	setDefault(&c.MaxConns, DefaultMaxConns)
	setDefault(&c.PingInterval, DefaultPingInterval)
	setDefault(&c.MaxPingsOut, DefaultMaxPingsOut)
	setDefault(&c.WriteDeadline, DefaultWriteDeadline)
	setDefault(&c.AuthTimeout, DefaultAuthTimeout)
	setDefault(&c.TLSTimeout, DefaultTLSTimeout)
	if c.Cluster != nil {
		c.Cluster = c.Cluster.withDefaults(&c)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports the first thing in c that no broker can be built from.
func (c *Config) validate() error {
	for name, n := range map[string]int64{
		"MaxPending": c.MaxPending, "MaxControlLine": int64(c.MaxControlLine), "MaxSubs": int64(c.MaxSubs),
		"MaxSubTokens": int64(c.MaxSubTokens), "MaxPingsOut": int64(c.MaxPingsOut),
		"PingInterval": int64(c.PingInterval), "WriteDeadline": int64(c.WriteDeadline),
		"AuthTimeout": int64(c.AuthTimeout), "TLSTimeout": int64(c.TLSTimeout),
	} {
		if n < 0 {
			return fmt.Errorf("broker config: %s is negative: %d", name, n)
		}
	}
	if c.Cluster != nil {
		if err := c.Cluster.validate(); err != nil {
			return err
		}
	}
	const maxPayload = 1<<31 - 1
	if c.MaxPayload > maxPayload {
		return fmt.Errorf("broker config: MaxPayload %d is more than %d", c.MaxPayload, maxPayload)
	}
	if c.MaxPending > 0 && c.MaxPayload > c.MaxPending {
		return fmt.Errorf("broker config: MaxPayload %d is more than MaxPending %d", c.MaxPayload, c.MaxPending)
	}
	if strings.ContainsAny(c.ServerName, " \t\r\n") {
		return fmt.Errorf("broker config: server name %q has white space", c.ServerName)
	}
	accounts, users := map[string]bool{}, map[string]bool{}
	for i := range c.Accounts {
		a := &c.Accounts[i]
		if a.Name == "" || strings.ContainsAny(a.Name, " \t\r\n") {
			return fmt.Errorf("broker config: invalid account name %q", a.Name)
		}
		if accounts[a.Name] {
			return fmt.Errorf("broker config: account %q is defined twice", a.Name)
		}
		accounts[a.Name] = true
		for _, u := range a.Users {
			if err := u.validate(); err != nil {
				return fmt.Errorf("broker config: account %q: %w", a.Name, err)
			}
			if users[u.id()] {
				return fmt.Errorf("broker config: account %q: user %q is defined twice", a.Name, u.id())
			}
			users[u.id()] = true
		}
	}
	if len(users) > 0 && c.Token != "" {
		return fmt.Errorf("broker config: a token and users exclude each other")
	}
	if c.NoAuthUser != "" && !users[c.NoAuthUser] {
		return fmt.Errorf("broker config: no_auth_user %q is not a configured user", c.NoAuthUser)
	}
	return nil
}

// id is the name a user is looked up by.
func (u *UserConfig) id() string {
	if u.Nkey != "" {
		return u.Nkey
	}
	return u.User
}

func (u *UserConfig) validate() error {
	if (u.User == "") == (u.Nkey == "") {
		return fmt.Errorf("user needs exactly one of name and nkey, has name %q and nkey %q", u.User, u.Nkey)
	}
	if u.Nkey != "" && !nkeys.IsValidPublicUserKey(u.Nkey) {
		return fmt.Errorf("invalid public user nkey %q", u.Nkey)
	}
	if u.Permissions == nil {
		return nil
	}
	if p := u.Permissions.Publish; p != nil {
		for _, s := range append(append([]string{}, p.Allow...), p.Deny...) {
			if !subject.Valid(s) {
				return fmt.Errorf("user %q: invalid publish permission %q", u.id(), s)
			}
		}
	}
	if p := u.Permissions.Subscribe; p != nil {
		for _, s := range append(append([]string{}, p.Allow...), p.Deny...) {
			if _, _, err := splitQueue(s); err != nil {
				return fmt.Errorf("user %q: %w", u.id(), err)
			}
		}
	}
	return nil
}

// splitQueue splits a subscribe permission into its filter and optional queue name.
func splitQueue(s string) (filter, queue string, err error) {
	fields := strings.Fields(s)
	if len(fields) == 2 {
		queue = fields[1]
	}
	if len(fields) < 1 || len(fields) > 2 || !subject.Valid(fields[0]) || (queue != "" && !subject.Valid(queue)) {
		return "", "", fmt.Errorf("invalid subscribe permission %q", s)
	}
	return fields[0], queue, nil
}
