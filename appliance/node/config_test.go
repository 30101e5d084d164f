package node

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/conf"
)

// hash is bcrypt of "a very long s3cr3t! password".
const hash = "$2a$11$DRh4C0KNbNnD8K/hb/buWe1zPxEHrLEiDmuq1Mi0rRJiH/W25Qidm"

const nkey = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

// load writes text to n.conf in a new folder and loads it. The folder is cut from error texts.
func load(t *testing.T, text string) (*Settings, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "n.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Load(path)
	if err != nil {
		err = &cutError{dir: dir + "/", error: err}
	}
	return s, err
}

type cutError struct {
	error
	dir string
}

func (e *cutError) Error() string { return strings.ReplaceAll(e.error.Error(), e.dir, "") }
func (e *cutError) Unwrap() error { return e.error }

func TestLoadErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"not supported", "port: 4222\n  leafnodes { port: 7422 }\njetstream { tpm {}, cipher: chacha }\n",
			`n.conf:2:3: "leafnodes" is not supported by this version
n.conf:3:13: "jetstream.tpm" is not supported by this version
n.conf:3:21: jetstream.cipher: "chacha" is not supported by this version, aes is`},
		{"tags", "server_tags: [ a, 7, \" \" ]\njetstream { unique_tag: \"\" }",
			`n.conf:1:19: server_tags[1]: want a string (quote it), got 7
n.conf:1:23: server_tags[2]: want a tag that is not empty
n.conf:2:13: jetstream.unique_tag: want a tag that is not empty`},
		{"keys", "jetstream { key: \"\", prev_ek: 7, cipher: rot13 }",
			`n.conf:1:13: jetstream.key: want a key that is not empty; without the line nothing is encrypted
n.conf:1:22: jetstream.prev_ek: want a string (quote it)
n.conf:1:34: jetstream.cipher: want aes, got "rot13"`},
		{"further folders", "jetstream {\n extra_dirs: [\"/a\", \"b\"]\n}", `n.conf:2:2: jetstream.extra_dirs: want absolute paths of folders, each once, got "b"`},
		{"further folders, twice", "jetstream { extra_dirs: [\"/a\", \"/a/\"] }", `n.conf:1:13: jetstream.extra_dirs: want absolute paths of folders, each once, got "/a"`},
		{"trace", "debug: true\ntrace: true", `n.conf:2:1: "trace" is not supported by this version`},
		{"monitoring", "http_port: 8222", `n.conf:1:1: "http_port" is not supported by this version`},
		{"unknown, near", "\njetsteam: enabled", `n.conf:2:1: unknown key "jetsteam" (did you mean "jetstream"?)`},
		{"unknown, far", "colour: red", `n.conf:1:1: unknown key "colour"`},
		{"unknown, nested", "jetstream {\n\tstore_dirr: /x\n}", `n.conf:2:2: unknown key "jetstream.store_dirr" (did you mean "store_dir"?)`},
		{"unknown in user", "accounts { A { users: [ {user: a, pass: b, age: 3} ] } }",
			`n.conf:1:44: unknown key "accounts.A.users[0].age"`},
		{"wrong types", "server_name: 7\ndebug: 1\nmax_payload: lots\nping_max: [x]\nping_interval: {}\naccounts: 3\n",
			`n.conf:1:1: server_name: want a string (quote it), got 7
n.conf:2:1: debug: want true or false, got 1
n.conf:3:1: max_payload: want a size such as 8MB (not quoted), got "lots"
n.conf:4:1: ping_max: want a number, got a list
n.conf:5:1: ping_interval: want a duration such as "30s", got a block
n.conf:6:1: accounts: want a block { … } or a list of names, got 3`},
		{"sizes", "max_payload: 0\nmax_pending: -1\nmax_control_line: 8GB\njetstream { max_mem: \"1Q\", max_file: -2 }",
			`n.conf:1:1: max_payload: want a size such as 8MB (not quoted) from 1 to 2147483647, got 0
n.conf:2:1: max_pending: want a size such as 8MB (not quoted) of at least 1, got -1
n.conf:3:1: max_control_line: want a size such as 8MB (not quoted) from 1 to 2147483647, got 8589934592
n.conf:4:13: jetstream.max_mem: want a size such as 8GB, got "1Q"
n.conf:4:28: jetstream.max_file: want a size such as 8GB of at least -1, got -2`},
		{"payload over pending", "max_payload: 8MB, max_pending: 4MB", `n.conf:1:1: max_payload: 8388608 is more than max_pending 4194304`},
		{"durations", "write_deadline: soon\nlame_duck_duration: \"5s\"\nlame_duck_grace_period: 3",
			`n.conf:1:1: write_deadline: want a duration such as "30s", got "soon"
n.conf:2:1: lame_duck_duration: want at least 30s, got 5s
n.conf:3:1: lame_duck_grace_period: want a duration such as "30s", got 3`},
		{"grace too long", "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"30s\"",
			`n.conf:2:1: lame_duck_grace_period: 30s is not less than lame_duck_duration 30s`},
		{"sync interval", "jetstream {\n  sync_interval: \"2m\"\n}",
			`n.conf:2:3: jetstream.sync_interval: want "always", got "2m": every acknowledged message is on disk before its acknowledgement, a later sync cannot be chosen`},
		{"listen", "listen: localhost", `n.conf:1:1: listen: want a port or "host:port", got "localhost"`},
		{"port", "port: 70000", `n.conf:1:1: port: want a port from 1 to 65535, got 70000`},
		{"listen and port", "listen: 4222\nport: 4223", `n.conf:2:1: port: contradicts "listen" at n.conf:1:1`},
		{"given twice", "max_conn: 3\nmax_connections: 4", `n.conf:2:1: max_connections: given twice, also at n.conf:1:1`},
		{"two stores", "store_dir: /a\njetstream { store: /b }", `n.conf:2:13: jetstream.store: given twice, also at n.conf:1:1`},
		{"server name", "server_name: \"a b\"", `n.conf:1:1: server_name: want a name without spaces, dots and wildcards, got "a b"`},
		{"bcrypt", "authorization { user: a, pass: \"$2a$11$short\" }",
			`n.conf:1:26: authorization.pass: looks like a bcrypt hash but is not one (60 characters, $2a$COST$…)`},
		{"secret not shown", "authorization { user: a, pass: 123 }", `n.conf:1:26: authorization.pass: want a string (quote it)`},
		{"duplicate user", "accounts {\n  A { users [ {user: x, pass: y} ] }\n  B { users [ {user: x, pass: z} ] }\n}",
			`n.conf:3:16: accounts.B.users[0]: user "x" is given twice, also at n.conf:2:16`},
		{"user without name", "accounts { A { users [ {pass: y} ] } }", `n.conf:1:25: accounts.A.users[0]: needs a user or an nkey`},
		{"bad nkey", "accounts { A { users [ {nkey: UABC} ] } }",
			`n.conf:1:25: accounts.A.users[0]: "UABC" is not a public user nkey (U…)`},
		{"nkey and user", "accounts { A { users [ {nkey: " + nkey + ", user: x} ] } }",
			`n.conf:1:25: accounts.A.users[0]: has an nkey, which takes no user and no pass`},
		{"users not a list", "accounts { A { users { user: x } } }",
			`n.conf:1:16: accounts.A.users: want a list of users [ { user: …, pass: … } ], got a block`},
		{"reserved account", "accounts { $G {} }", `n.conf:1:12: accounts.$G: account "$G" is reserved for clients without an account`},
		{"account twice", "accounts: [A, A]", `n.conf:1:15: accounts[1]: account "A" is given twice`},
		{"no_auth_user", "no_auth_user: bob", `n.conf:1:1: no_auth_user: user "bob" is neither in authorization nor in an account`},
		{"system_account", "system_account: S", `n.conf:1:1: system_account: account "S" is not in accounts`},
		{"system streams", "jetstream: true, accounts { $SYS { jetstream: true } }",
			`n.conf:1:29: accounts.$SYS: the system account holds no streams, jetstream cannot be enabled in it`},
		{"token and users", "accounts { A { users [ {user: x} ] } }\nauthorization { token: t }",
			`n.conf:2:17: authorization.token: cannot stand beside users of accounts`},
		{"user and users", "authorization { user: a, users [ {user: b} ] }",
			`n.conf:1:26: authorization.users: cannot stand beside a single user`},
		{"permissions", "accounts { A { users [ {user: x, permissions { publish: \"a..b\", subscribe { allow: [\"a q\", \"b c d\"] } } } ] } }",
			`n.conf:1:48: accounts.A.users[0].permissions.publish: "a..b" is not a valid subject
n.conf:1:77: accounts.A.users[0].permissions.subscribe.allow: "b c d" is not a valid subject`},
		{"account limits", "accounts { A { limits { max_conn: 0, max_leafnodes: 3 } } }",
			`n.conf:1:25: accounts.A.limits.max_conn: want a number from 1 to 2147483647, got 0
n.conf:1:38: "accounts.A.limits.max_leafnodes" is not supported by this version`},
		{"jetstream word", "jetstream: maybe", `n.conf:1:1: jetstream: want "enabled", "disabled" or a block { … }, got "maybe"`},
		{"tls without key", "tls { cert_file: /c.pem }", `n.conf:1:1: tls: needs both cert_file and key_file`},
		{"tls missing file", "port: 1\ntls { cert_file: /no/c.pem, key_file: /no/k.pem }",
			`n.conf:2:1: tls: load certificate "/no/c.pem" with key "/no/k.pem": open /no/c.pem: no such file or directory`},
		{"appliance", "appliance { hostname: [a], disk: /dev/sda, ntp: [true] }",
			`n.conf:1:13: appliance.hostname: want a string (quote it), got a list
n.conf:1:28: unknown key "appliance.disk" (did you mean "disks"?)
n.conf:1:50: appliance.ntp[0]: want a string (quote it), got true`},
		{"no value", "port: 4222\nhost\n", `n.conf:3: the last key has no value`},
		{"unclosed", "jetstream {\n  store_dir: /x\n", `n.conf:3: Unexpected EOF processing map.`},
		{"cut off", "jetstream {\n  store_dir: /x",
			`n.conf:2: Expected a map value terminator "," or a map terminator "}", but got the end of the file instead.`},
		{"variable", "port: 4222\nhost: $NOWHERE_SET", `n.conf:2: variable $NOWHERE_SET is set neither above nor in the environment`},
		{"number range", "port: 1\nmax_pending: 99999999999999999999", `n.conf:2: number 99999999999999999999 is out of range`},
		{"include missing", "port: 1\ninclude 'gone.conf'", `n.conf:2: include: open gone.conf: no such file or directory`},
		{"include itself", "port: 1\ninclude ./n.conf", `n.conf:2: include: "./n.conf" includes itself`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil {
				t.Fatalf("no error, want\n%s", tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("got\n%s\nwant\n%s", err, tt.want)
			}
			if ce := (*ConfigError)(nil); !errors.As(err, &ce) {
				t.Errorf("no *ConfigError in %v", err)
			}
		})
	}
}

func TestLoadMissingFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.conf")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

func TestLoadErrorInIncludedFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	main := write("main.conf", "port: 4222\ninclude sub.conf\n")
	for text, want := range map[string]string{
		"\n\nmax_payload: big": `sub.conf:3:1: max_payload: want a size such as 8MB (not quoted), got "big"`,
		"\nhost\n":             `sub.conf:3: the last key has no value`,
		"\nhost: $NOT_THERE":   `sub.conf:2: variable $NOT_THERE is set neither above nor in the environment`,
		"include main.conf":    `sub.conf:1: include: "main.conf" includes itself`,
	} {
		write("sub.conf", text)
		_, err := Load(main)
		if err == nil || strings.ReplaceAll(err.Error(), dir+"/", "") != want {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestLoadValues(t *testing.T) {
	t.Setenv("MILLRACE_TEST_PASS", "from-env")
	s, err := load(t, `
# a comment
listen: "127.0.0.1:-1"
server_name: n1
max_payload: 2MB; max_pending: 1G
max_connections: 10
max_subs: 5
ping_interval: 30, ping_max: 4
write_deadline: "3s"
lame_duck_duration: "1m", lame_duck_grace_period: "5s"
SECRET: s3cret
accounts {
  B {
    jetstream: enabled
    default_permissions { subscribe: [ "b.>", "w.* q" ] }
    users [
      { user: bob, password: $MILLRACE_TEST_PASS }
      { nkey: `+nkey+`, permissions { publish { deny: x }, allow_responses: { max: 5, ttl: "1m" } } }
    ]
  }
  A {
    jetstream { max_mem: 1M, disk: 2GB, max_streams: 3, max_consumers: 4, max_bytes_required: true }
    limits { max_conn: 7, max_payload: 1KB }
    users = [ { user: admin, pass: `+hash+` } ]
  }
  SYS { users = [ { user: sys, pass: $SECRET } ] }
}
system_account: SYS
no_auth_user: bob
server_tags: [ "zone:A", " ssd ", SSD ]
jetstream {
  store_dir: "/data/js", domain: hub, extra_dirs: [ "/data2/js/", "/data3" ]
  max_memory_store: 64MB, max_file_store: "2G"
  sync_interval: always, unique_tag: "Zone:", scrub_interval: "36h"
  encryption_key: $SECRET, prev_key: "older", cipher: AES
  limits { max_ack_pending: 100, max_request_batch: 250, duplicate_window: "5m" }
}
debug: on, trace: no, logtime: false
log_file: /var/log/n.log, pid_file: /run/n.pid
appliance { hostname: box, network { eth0: dhcp }, ntp: [ a, b ], disks: "/dev/sda", console: ttyS0, update_keys: [] }
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &Settings{
		File: s.File, Host: "127.0.0.1", Port: 0, ServerName: "n1",
		Tags:           []string{"zone:a", "ssd"},
		MaxConnections: 10, MaxSubscriptions: 5,
		MaxPayload: 2 << 20, MaxPending: 1e9, MaxControlLine: 4096,
		PingInterval: 30 * time.Second, PingMax: 4, WriteDeadline: 3 * time.Second,
		LameDuckDuration: time.Minute, LameDuckGracePeriod: 5 * time.Second,
		SystemAccount: "SYS", NoAuthUser: "bob", AuthTimeout: 2 * time.Second,
		TLS: TLS{Timeout: 2 * time.Second},
		JetStream: JetStream{
			Enabled: true, StoreDir: "/data/js", ExtraDirs: []string{"/data2/js", "/data3"}, Domain: "hub", UniqueTag: "zone:", MaxMemory: 64 << 20, MaxStore: 2 << 30,
			ScrubInterval: 36 * time.Hour,
			Key:           "s3cret", PrevKey: "older", MaxAckPending: 100, MaxRequestBatch: 250, Duplicates: 5 * time.Minute,
		},
		Log:     LogSettings{Debug: true, File: "/var/log/n.log"},
		PidFile: "/run/n.pid",
		Accounts: []Account{
			{Name: "$G", Limits: noLimits()},
			{
				Name: "B", Limits: noLimits(),
				JetStream: (&checker{}).accountJetStream(value{raw: true}),
				Users: []User{
					{Name: "bob", Password: "from-env", Permissions: &Permissions{
						Subscribe: SubjectRules{Allow: []string{"b.>", "w.* q"}},
					}},
					{NKey: nkey, Permissions: &Permissions{
						Publish:        SubjectRules{Allow: []string{}, Deny: []string{"x"}},
						AllowResponses: &ResponseRule{MaxMsgs: 5, Expires: time.Minute},
					}},
				},
			},
			{
				Name: "A", Limits: AccountLimits{MaxConnections: 7, MaxSubscriptions: -1, MaxPayload: 1024},
				JetStream: &AccountJetStream{
					MaxMemory: 1e6, MaxStore: 2 << 30, MaxStreams: 3, MaxConsumers: 4, MaxAckPending: -1,
					MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1, MaxBytesRequired: true,
				},
				Users: []User{{Name: "admin", Password: hash}},
			},
			{Name: "SYS", Limits: noLimits(), Users: []User{{Name: "sys", Password: "s3cret"}}},
		},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got\n%+v\nwant\n%+v", s, want)
	}
}

func TestLoadScrubInterval(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"off": -1, `"OFF"`: -1, "false": -1, "0": -1, "72h": 72 * time.Hour, `"1m"`: time.Minute,
	} {
		s, err := load(t, "jetstream { scrub_interval: "+text+" }")
		if err != nil || s.JetStream.ScrubInterval != want {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

func TestLoadAuthorizationIsGlobalAccount(t *testing.T) {
	tests := []struct {
		text  string
		users []string
		token string
	}{
		{"port: 4222", nil, ""},
		{"authorization { user: a, pass: b }", []string{"a"}, ""},
		{"authorization { token: t, timeout: 1.5 }", nil, "t"},
		{"authorization { users: [ {user: a, pass: b}, {user: c, pass: d} ] }", []string{"a", "c"}, ""},
		{"accounts { A { users: [ {user: s, pass: p} ] } }", nil, ""},
	}
	for _, tt := range tests {
		s, err := load(t, tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		var names []string
		for _, u := range s.Accounts[0].Users {
			names = append(names, u.Name)
		}
		if s.Accounts[0].Name != GlobalAccount || !slices.Equal(names, tt.users) || s.Token != tt.token {
			t.Errorf("%s: got account %q users %q token %q", tt.text, s.Accounts[0].Name, names, s.Token)
		}
	}
}

func TestLoadStreamsOfAccounts(t *testing.T) {
	tests := []struct {
		text string
		want []string // accounts with streams
	}{
		{"jetstream: enabled", []string{"$G"}},
		{"port: 4222", nil},
		{"jetstream: enabled, accounts { $SYS { users: [ {user: s, pass: p} ] } }", []string{"$G"}},
		{"jetstream: enabled, accounts { A { jetstream: enabled }, B { } }", []string{"A"}},
		{"jetstream { enabled: false }, accounts { A { jetstream: enabled } }", nil},
	}
	for _, tt := range tests {
		s, err := load(t, tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		var got []string
		for _, a := range s.Accounts {
			if a.JetStream != nil {
				got = append(got, a.Name)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: streams in %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestDefaultSettings(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	s, err := DefaultSettings()
	if err != nil {
		t.Fatal(err)
	}
	if s.Host != "0.0.0.0" || s.Port != 4222 || s.SystemAccount != "$SYS" {
		t.Errorf("got %+v", s)
	}
	if !s.JetStream.Enabled || s.JetStream.StoreDir != "/data/millrace" || s.Accounts[0].JetStream == nil {
		t.Errorf("got %+v", s.JetStream)
	}
	t.Setenv("XDG_DATA_HOME", "")
	t.Setenv("HOME", "/home/u")
	if s, err = DefaultSettings(); err != nil || s.JetStream.StoreDir != "/home/u/.local/share/millrace" {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestSettingsForStore(t *testing.T) {
	dir := t.TempDir()
	off := filepath.Join(dir, "off.conf")
	if err := os.WriteFile(off, []byte("port: 4222"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := SettingsFor("", "/s")
	if err != nil || s.JetStream.StoreDir != "/s" {
		t.Errorf("got %v, %v", s, err)
	}
	if _, err := SettingsFor(off, "/s"); err == nil || !strings.Contains(err.Error(), "jetstream is not enabled in "+off) {
		t.Errorf("got %v", err)
	}
	if s, err := SettingsFor(off, ""); err != nil || s.JetStream.StoreDir != "" {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestBrokerConfig(t *testing.T) {
	s, err := load(t, `
accounts { A {
  limits { max_conn: 7, max_payload: 1KB }
  users [ { user: x, pass: y, permissions { publish: p, allow_responses: true } }, { nkey: `+nkey+` } ]
} }
max_subs: 3`)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := s.brokerConfig()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Port != 4222 || cfg.MaxSubs != 3 || len(cfg.Accounts) != 3 || cfg.SystemAccount != "$SYS" {
		t.Errorf("got %+v", cfg)
	}
	a := cfg.Accounts[1]
	if a.Name != "A" || a.MaxConns != 7 || a.MaxPayload != 1024 || a.MaxSubs != 0 || len(a.Users) != 2 {
		t.Fatalf("got %+v", a)
	}
	p := a.Users[0].Permissions
	if p == nil || !slices.Equal(p.Publish.Allow, []string{"p"}) || p.AllowResponses.MaxMsgs != 1 || p.Subscribe.Allow != nil {
		t.Errorf("got %+v", p)
	}
	if a.Users[1].Nkey != nkey || a.Users[1].Permissions != nil {
		t.Errorf("got %+v", a.Users[1])
	}
}

// FuzzLoad looks for panics and for faults without a place.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{
		"", "port: 4222", "listen: [::1]:4222", "jetstream { store_dir: /x, max_mem: 1GB }", "a = $b\nb = $a",
		"accounts { A { users [ {user: a, pass: $2a$11$x} ] } }", "authorization { token: \"t\" }", "}", "a {", "[",
		"ping_interval: 1e400", "accounts: [ A, {}, 3 ]", "x: 2020-01-01T00:00:00Z", "tls {}", "(a)", "a (\nb\n)",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(strings.ToLower(text), "include") {
			t.Skip("reads other files")
		}
		tree, err := conf.ParseWithChecks(text)
		if err != nil {
			return
		}
		c := &checker{}
		s := c.settings("f.conf", tree)
		for _, e := range c.errs {
			if e.Line == 0 || e.File != "f.conf" || e.Reason == "" {
				t.Errorf("fault without a place: %+v", e)
			}
		}
		if len(c.errs) == 0 && (len(s.Accounts) < 2 || s.Port < 0 || s.MaxPayload < 1) {
			t.Errorf("accepted %+v", s)
		}
	})
}
