package node

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/conf"
)

// Account names that exist on every node.
const (
	GlobalAccount  = "$G"   // of clients and users that name no account
	DefaultSystem  = "$SYS" // the system account when the configuration names none
	randomPort     = -1     // "port: -1" picks a free port
	defaultPort    = 4222
	unlimited      = -1
	defaultHost    = "0.0.0.0"
	storeDirInData = "millrace"
)

// Settings is everything that a node is told at start: the content of a configuration file in
// nats-server syntax with every default filled in. It is plain data; Load and DefaultSettings make
// it, Start reads it, nothing changes it.
type Settings struct {
	File string // path of the configuration file; empty: the built-in defaults

	Host             string   // address to listen on for clients; default 0.0.0.0
	Port             int      // TCP port for clients; 0: the kernel picks a free one
	ServerName       string   // empty: the node makes one
	Tags             []string // server_tags, in lower case; placements of streams ask for them
	MaxConnections   int      // clients at a time; -1: none are accepted; default 65536
	MaxSubscriptions int      // subscriptions of one client; 0: unlimited

	MaxPayload     int           // bytes of one message's header and data; default 1 MiB
	MaxPending     int64         // bytes waiting for one client before it is slow; default 64 MiB
	MaxControlLine int           // bytes of one protocol line; default 4096
	PingInterval   time.Duration // default 2 minutes
	PingMax        int           // unanswered PINGs before a client is dropped; default 2
	WriteDeadline  time.Duration // a client that takes no bytes for so long is dropped; default 10 s

	LameDuckDuration    time.Duration // over which clients are closed; default 2 minutes
	LameDuckGracePeriod time.Duration // before the first is closed; default 10 s

	Accounts      []Account     // $G first, then the file's in its order, then $SYS if the file has none
	SystemAccount string        // name of one of Accounts
	NoAuthUser    string        // user or nkey that clients without credentials become; empty: none
	Token         string        // plain or bcrypt; a client that shows it enters $G; empty: none
	AuthTimeout   time.Duration // to CONNECT within; default 2 s, 3 s with TLS

	TLS       TLS
	JetStream JetStream
	Cluster   *Cluster // nil: the node is alone
	Log       LogSettings
	PidFile   string // file that receives the process id; empty: none

	// BoxSocket is the unix socket of the box that runs this node (appliance/system); empty: there is
	// none. It comes from the command line, not from the file.
	BoxSocket string
}

// Account is an isolated subject space with its users.
type Account struct {
	Name      string
	Users     []User
	Limits    AccountLimits
	JetStream *AccountJetStream // nil: streams are disabled in this account
}

// AccountLimits bounds the clients of one account; -1: no bound of its own.
type AccountLimits struct {
	MaxConnections   int // clients at a time
	MaxSubscriptions int // subscriptions of one client
	MaxPayload       int // bytes
}

// AccountJetStream bounds the streams of one account; -1: unlimited.
type AccountJetStream struct {
	MaxMemory            int64 // bytes of memory streams
	MaxStore             int64 // bytes of file streams
	MaxStreams           int
	MaxConsumers         int
	MaxAckPending        int
	MemoryMaxStreamBytes int64 // max_bytes that one memory stream may ask for
	StoreMaxStreamBytes  int64 // max_bytes that one file stream may ask for
	MaxBytesRequired     bool  // a stream must set max_bytes
}

// User may connect to the account that holds it, by password or by nkey.
type User struct {
	Name        string // empty for an nkey user
	Password    string // plain, or a bcrypt hash
	NKey        string // public user key ("U…"); empty for a password user
	Permissions *Permissions
}

// Permissions says on which subjects a user may publish and subscribe; nil: on all.
type Permissions struct {
	Publish        SubjectRules
	Subscribe      SubjectRules
	AllowResponses *ResponseRule // nil: replies need Publish as everything else does
}

// SubjectRules is what may be used: what Allow lists and Deny does not. A nil Allow is everything,
// an empty one nothing. An entry of Subscribe may be "subject queue".
type SubjectRules struct {
	Allow []string
	Deny  []string
}

// ResponseRule lets a client publish to the reply subjects of requests it received.
type ResponseRule struct {
	MaxMsgs int           // replies to one request; negative: unlimited; default 1
	Expires time.Duration // after the request; negative: never; default 2 minutes
}

// TLS is the encryption of connections.
type TLS struct {
	CertFile string // PEM; empty: no TLS
	KeyFile  string // PEM
	CAFile   string // PEM, to verify clients against; empty: the system's
	Verify   bool   // clients must show a certificate; on routes both sides always do
	Timeout  time.Duration
}

// JetStream is the stream engine of the node.
type JetStream struct {
	Enabled  bool
	StoreDir string // folder of everything durable
	// ExtraDirs are folders on further disks, over which the log is spread; absolute paths.
	ExtraDirs []string
	// ScrubInterval is the time in which all that is stored is read once and checked. 0: the journal's default; negative:
	// never.
	ScrubInterval time.Duration
	Domain        string
	Key           string // what the stored data is encrypted under; empty: it is not
	PrevKey       string // what it was encrypted under before; empty: nothing else

	// UniqueTag begins the tag in which the nodes of a stream have to differ, such as "zone:"; empty: none.
	UniqueTag string

	MaxMemory int64 // bytes of memory streams; -1: unlimited
	MaxStore  int64 // bytes of file streams; -1: unlimited

	MaxAckPending   int           // upper bound of a consumer's max_ack_pending; not above 0: none
	MaxRequestBatch int           // upper bound of a pull request's batch; not above 0: none
	Duplicates      time.Duration // upper bound of a stream's duplicate window; 0: none
}

// LogSettings is where the log goes and what is in it.
type LogSettings struct {
	Debug bool
	Time  bool   // time stamps; default true
	UTC   bool   // time stamps in UTC
	File  string // empty: standard error
}

// DefaultSettings returns what a node runs with without a configuration file: all interfaces, port
// 4222, no authorization, and streams stored under the user's data folder.
func DefaultSettings() (*Settings, error) {
	s := baseSettings()
	s.JetStream.Enabled = true
	c := &checker{}
	c.finish(s)
	return s, s.fillStoreDir()
}

// SettingsFor returns the settings of a command line: those of the configuration file, without one
// the defaults, with store in place of their folder of streams if it is not empty.
func SettingsFor(file, store string) (*Settings, error) {
	read := DefaultSettings
	if file != "" {
		read = func() (*Settings, error) { return Load(file) }
	}
	s, err := read()
	if err != nil || store == "" {
		return s, err
	}
	if !s.JetStream.Enabled {
		return nil, fmt.Errorf("-store %s: jetstream is not enabled in %s", store, file)
	}
	s.JetStream.StoreDir = store
	return s, nil
}

// Load reads the configuration file at path. Its error names every fault with file, line, column
// and key; errors.As finds the *ConfigError of the first.
func Load(path string) (*Settings, error) {
	if err := checkIncludes(path, nil); err != nil {
		return nil, err
	}
	tree, err := conf.ParseFileWithChecks(path)
	if err != nil {
		return nil, parseError(path, err)
	}
	c := &checker{}
	s := c.settings(path, tree)
	if s.TLS.CertFile != "" && len(c.errs) == 0 {
		if _, err := s.TLS.config(); err != nil {
			c.fail(c.tlsAt, "%v", err)
		}
	}
	if s.Cluster != nil && s.Cluster.TLS.CertFile != "" && len(c.errs) == 0 {
		if _, err := s.Cluster.TLS.config(); err != nil {
			c.fail(c.clusterTLSAt, "%v", err)
		}
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	return s, s.fillStoreDir()
}

// settings turns a parsed file into settings; faults are in c.errs. It does no I/O.
func (c *checker) settings(path string, tree map[string]any) *Settings {
	s := baseSettings()
	s.File = path
	c.server(value{pos: pos{file: path}, raw: tree}, s)
	c.finish(s)
	c.finishCluster(s)
	return s
}

// baseSettings returns nats-server's defaults.
func baseSettings() *Settings {
	return &Settings{
		Host:                defaultHost,
		Port:                defaultPort,
		MaxConnections:      64 << 10,
		MaxPayload:          1 << 20,
		MaxPending:          64 << 20,
		MaxControlLine:      4 << 10,
		PingInterval:        2 * time.Minute,
		PingMax:             2,
		WriteDeadline:       10 * time.Second,
		LameDuckDuration:    2 * time.Minute,
		LameDuckGracePeriod: 10 * time.Second,
		TLS:                 TLS{Timeout: 2 * time.Second},
		JetStream:           JetStream{MaxMemory: unlimited, MaxStore: unlimited},
		Log:                 LogSettings{Time: true},
	}
}

// fillStoreDir gives enabled streams without a store_dir a folder that survives a reboot:
// $XDG_DATA_HOME/millrace, by default ~/.local/share/millrace.
func (s *Settings) fillStoreDir() error {
	if !s.JetStream.Enabled || s.JetStream.StoreDir != "" {
		return nil
	}
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("choose a folder for streams, set jetstream { store_dir }: %w", err)
		}
		data = filepath.Join(home, ".local", "share")
	}
	s.JetStream.StoreDir = filepath.Join(data, storeDirInData)
	return nil
}
