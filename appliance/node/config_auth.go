package node

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/bcrypt"

	"millrace/appliance/server/subject"
)

// Defaults of allow_responses, nats-server's.
const (
	defaultResponses       = 1
	defaultResponseExpires = 2 * time.Minute
)

// accounts reads the accounts block, or a list of names.
func (c *checker) accounts(v value, s *Settings) {
	switch raw := v.raw.(type) {
	case []any:
		for _, item := range v.items(raw) {
			name, ok := item.raw.(string)
			if !ok {
				c.want(item, "an account name")
				continue
			}
			c.addAccount(item, s, Account{Name: name, Limits: noLimits()})
		}
	case map[string]any:
		for _, entry := range v.entries(raw) {
			if entry.variable {
				continue
			}
			a := Account{Name: entry.key, Limits: noLimits()}
			c.account(entry, &a)
			c.addAccount(entry, s, a)
		}
	default:
		c.want(v, "a block { … } or a list of names")
	}
}

func (c *checker) addAccount(v value, s *Settings, a Account) {
	switch {
	case a.Name == GlobalAccount:
		c.fail(v, "account %q is reserved for clients without an account", a.Name)
	case a.Name == "" || strings.ContainsAny(a.Name, " \t\r\n"):
		c.fail(v, "want an account name without spaces, got %q", a.Name)
	case slices.ContainsFunc(s.Accounts, func(b Account) bool { return b.Name == a.Name }):
		c.fail(v, "account %q is given twice", a.Name)
	default:
		s.Accounts = append(s.Accounts, a)
		if c.accountAt == nil {
			c.accountAt = make(map[string]value)
		}
		c.accountAt[a.Name] = v
	}
}

func noLimits() AccountLimits {
	return AccountLimits{MaxConnections: unlimited, MaxSubscriptions: unlimited, MaxPayload: unlimited}
}

func (c *checker) account(v value, a *Account) {
	var defaults *Permissions
	c.block(v, schema{
		fields: map[string]func(value){
			"users":               func(v value) { a.Users = c.userList(v) },
			"default_permissions": func(v value) { defaults = c.permissions(v) },
			"jetstream":           func(v value) { a.JetStream = c.accountJetStream(v) },
			"limits": func(v value) {
				c.block(v, schema{
					fields: map[string]func(value){
						"max_connections":   limit(c, &a.Limits.MaxConnections),
						"max_subscriptions": limit(c, &a.Limits.MaxSubscriptions),
						"max_payload":       limit(c, &a.Limits.MaxPayload),
					},
					aliases: map[string]string{
						"max_conn": "max_connections", "max_subs": "max_subscriptions", "max_pay": "max_payload",
					},
					unsupported: unsupportedAccountLimits,
				})
			},
		},
		unsupported: unsupportedAccount,
	})
	withDefaultPermissions(a.Users, defaults)
}

// accountJetStream reads an account's switch or block; nil: disabled.
func (c *checker) accountJetStream(v value) *AccountJetStream {
	all := &AccountJetStream{
		MaxMemory: unlimited, MaxStore: unlimited, MaxStreams: unlimited, MaxConsumers: unlimited,
		MaxAckPending: unlimited, MemoryMaxStreamBytes: unlimited, StoreMaxStreamBytes: unlimited,
	}
	switch raw := v.raw.(type) {
	case bool:
		if raw {
			return all
		}
		return nil
	case string:
		on, ok := enabled(raw)
		if !ok {
			c.want(v, `"enabled", "disabled" or a block { … }`)
		}
		if on {
			return all
		}
		return nil
	}
	c.block(v, schema{
		fields: map[string]func(value){
			"max_memory":            size(c, &all.MaxMemory, unlimited, math.MaxInt64),
			"max_file":              size(c, &all.MaxStore, unlimited, math.MaxInt64),
			"max_streams":           number(c, &all.MaxStreams, unlimited, math.MaxInt32),
			"max_consumers":         number(c, &all.MaxConsumers, unlimited, math.MaxInt32),
			"max_ack_pending":       number(c, &all.MaxAckPending, unlimited, math.MaxInt32),
			"max_bytes_required":    c.flag(&all.MaxBytesRequired),
			"mem_max_stream_bytes":  size(c, &all.MemoryMaxStreamBytes, unlimited, math.MaxInt64),
			"disk_max_stream_bytes": size(c, &all.StoreMaxStreamBytes, unlimited, math.MaxInt64),
		},
		aliases: map[string]string{
			"max_mem": "max_memory", "mem": "max_memory", "memory": "max_memory",
			"max_store": "max_file", "max_disk": "max_file", "store": "max_file", "disk": "max_file",
			"streams": "max_streams", "consumers": "max_consumers",
			"max_stream_bytes": "max_bytes_required", "max_bytes": "max_bytes_required",
			"memory_max_stream_bytes": "mem_max_stream_bytes",
			"store_max_stream_bytes":  "disk_max_stream_bytes",
		},
		unsupported: unsupportedAccountJetStream,
	})
	return all
}

// authorization reads the block whose users and token belong to the global account.
func (c *checker) authorization(v value, s *Settings) {
	var single User
	var users []User
	var singleAt, usersAt value
	var defaults *Permissions
	c.block(v, schema{
		fields: map[string]func(value){
			"user":                func(v value) { singleAt = v; c.str(&single.Name)(v) },
			"pass":                c.password(&single.Password),
			"token":               func(v value) { c.token = v; c.password(&s.Token)(v) },
			"timeout":             c.duration(&s.AuthTimeout, time.Millisecond, true),
			"users":               func(v value) { usersAt = v; users = c.userList(v) },
			"default_permissions": func(v value) { defaults = c.permissions(v) },
		},
		aliases: map[string]string{
			"username": "user", "password": "pass",
			"default_permission": "default_permissions", "permissions": "default_permissions",
		},
		unsupported: unsupportedAuthorization,
	})
	switch {
	case singleAt.path != "" && c.token.path != "":
		c.fail(c.token, "cannot stand beside a single user")
	case singleAt.path != "" && usersAt.path != "":
		c.fail(usersAt, "cannot stand beside a single user")
	case c.token.path != "" && usersAt.path != "":
		c.fail(usersAt, "cannot stand beside a token")
	case single.Password != "" && single.Name == "":
		c.fail(v, "has a pass without a user")
	}
	if single.Name != "" {
		c.addUser(singleAt, single.Name)
		users = append(users, single)
	}
	withDefaultPermissions(users, defaults)
	s.Accounts = append(s.Accounts, Account{Name: GlobalAccount, Users: users, Limits: noLimits()})
}

// withDefaultPermissions gives users without permissions those of their block.
func withDefaultPermissions(users []User, defaults *Permissions) {
	for i := range users {
		if users[i].Permissions == nil {
			users[i].Permissions = defaults
		}
	}
}

func (c *checker) userList(v value) []User {
	raw, ok := v.raw.([]any)
	if !ok {
		c.want(v, "a list of users [ { user: …, pass: … } ]")
		return nil
	}
	users := make([]User, 0, len(raw))
	for _, item := range v.items(raw) {
		if u, ok := c.user(item); ok {
			users = append(users, u)
		}
	}
	return users
}

func (c *checker) user(v value) (User, bool) {
	var u User
	faults := len(c.errs)
	c.block(v, schema{
		fields: map[string]func(value){
			"user":        c.str(&u.Name),
			"pass":        c.password(&u.Password),
			"nkey":        c.str(&u.NKey),
			"permissions": func(v value) { u.Permissions = c.permissions(v) },
		},
		aliases: map[string]string{
			"username": "user", "password": "pass",
			"permission": "permissions", "authorization": "permissions",
		},
		unsupported: unsupportedUser,
	})
	if len(c.errs) != faults {
		return u, false
	}
	switch {
	case u.NKey == "" && u.Name == "":
		c.fail(v, "needs a user or an nkey")
	case u.NKey != "" && (u.Name != "" || u.Password != ""):
		c.fail(v, "has an nkey, which takes no user and no pass")
	case u.NKey != "" && !nkeys.IsValidPublicUserKey(u.NKey):
		c.fail(v, "%q is not a public user nkey (U…)", u.NKey)
	case u.NKey != "":
		return u, c.addUser(v, u.NKey)
	default:
		return u, c.addUser(v, u.Name)
	}
	return u, false
}

// addUser refuses a name or nkey that another place has: a name decides the account.
func (c *checker) addUser(v value, name string) bool {
	if first, ok := c.userAt[name]; ok {
		c.fail(v, "user %q is given twice, also at %s", name, first.pos)
		return false
	}
	if c.userAt == nil {
		c.userAt = make(map[string]value)
	}
	c.userAt[name] = v
	return true
}

// password reads a plain password or a bcrypt hash.
func (c *checker) password(to *string) func(value) {
	return func(v value) {
		c.secret(to)(v)
		if !strings.HasPrefix(*to, "$2") {
			return
		}
		if _, err := bcrypt.Cost([]byte(*to)); err != nil || len(*to) != 60 {
			c.fail(v, "looks like a bcrypt hash but is not one (60 characters, $2a$COST$…)")
		}
	}
}

func (c *checker) permissions(v value) *Permissions {
	p := &Permissions{}
	c.block(v, schema{
		fields: map[string]func(value){
			"publish":         func(v value) { p.Publish = c.subjectRules(v, false) },
			"subscribe":       func(v value) { p.Subscribe = c.subjectRules(v, true) },
			"allow_responses": func(v value) { p.AllowResponses = c.responseRule(v) },
		},
		aliases: map[string]string{
			"pub": "publish", "import": "publish", "sub": "subscribe", "export": "subscribe",
			"publish_allow_responses": "allow_responses",
		},
	})
	if p.AllowResponses != nil && p.Publish.Allow == nil {
		p.Publish.Allow = []string{} // as nats-server: only the replies, if nothing else is allowed
	}
	return p
}

// subjectRules reads allow and deny lists, or a list that is the allow list.
func (c *checker) subjectRules(v value, queues bool) SubjectRules {
	var r SubjectRules
	if _, ok := v.raw.(map[string]any); !ok {
		r.Allow = c.subjects(v, queues)
		return r
	}
	c.block(v, schema{fields: map[string]func(value){
		"allow": func(v value) { r.Allow = c.subjects(v, queues) },
		"deny":  func(v value) { r.Deny = c.subjects(v, queues) },
	}})
	return r
}

// subjects reads subjects; with queues an entry may be "subject queue".
func (c *checker) subjects(v value, queues bool) []string {
	list := c.strs(v)
	for _, s := range list {
		parts := strings.Fields(s)
		valid := len(parts) == 1 || queues && len(parts) == 2
		for _, part := range parts {
			valid = valid && subject.Valid(part)
		}
		if !valid {
			c.fail(v, "%q is not a valid subject", s)
		}
	}
	return list
}

func (c *checker) responseRule(v value) *ResponseRule {
	rule := &ResponseRule{MaxMsgs: defaultResponses, Expires: defaultResponseExpires}
	if on, ok := v.raw.(bool); ok {
		if on {
			return rule
		}
		return nil
	}
	c.block(v, schema{
		fields: map[string]func(value){
			"max":     number(c, &rule.MaxMsgs, unlimited, math.MaxInt32),
			"expires": c.duration(&rule.Expires, math.MinInt64, false),
		},
		aliases: map[string]string{
			"max_msgs": "max", "max_messages": "max", "max_responses": "max",
			"expiration": "expires", "ttl": "expires",
		},
	})
	if rule.MaxMsgs == 0 {
		rule.MaxMsgs = defaultResponses
	}
	if rule.Expires == 0 {
		rule.Expires = defaultResponseExpires
	}
	return rule
}

// finish fills what follows from the whole and checks what names something elsewhere in the file.
func (c *checker) finish(s *Settings) {
	if !slices.ContainsFunc(s.Accounts, func(a Account) bool { return a.Name == GlobalAccount }) {
		s.Accounts = append(s.Accounts, Account{Name: GlobalAccount, Limits: noLimits()})
	}
	if s.SystemAccount == "" {
		s.SystemAccount = DefaultSystem
		if !slices.ContainsFunc(s.Accounts, func(a Account) bool { return a.Name == DefaultSystem }) {
			s.Accounts = append(s.Accounts, Account{Name: DefaultSystem, Limits: noLimits()})
		}
	}
	// The global account leads: it is what everything without an account falls back to.
	slices.SortStableFunc(s.Accounts, func(a, b Account) int {
		return boolOrder(a.Name == GlobalAccount) - boolOrder(b.Name == GlobalAccount)
	})
	if s.AuthTimeout == 0 {
		s.AuthTimeout = 2 * time.Second
		if s.TLS.CertFile != "" {
			s.AuthTimeout = s.TLS.Timeout + time.Second
		}
	}
	if int64(s.MaxPayload) > s.MaxPending {
		c.fail(c.maxPayload, "%d is more than max_pending %d", s.MaxPayload, s.MaxPending)
	}
	if s.LameDuckGracePeriod >= s.LameDuckDuration {
		c.fail(c.lameDuck, "%s is not less than lame_duck_duration %s", s.LameDuckGracePeriod, s.LameDuckDuration)
	}
	c.finishUsers(s)
	c.finishJetStream(s)
}

func boolOrder(first bool) int {
	if first {
		return -1
	}
	return 0
}

func (c *checker) finishUsers(s *Settings) {
	if !slices.ContainsFunc(s.Accounts, func(a Account) bool { return a.Name == s.SystemAccount }) {
		c.fail(c.system, "account %q is not in accounts", s.SystemAccount)
		return
	}
	if s.NoAuthUser != "" {
		if _, ok := c.userAt[s.NoAuthUser]; !ok {
			c.fail(c.noAuthUser, "user %q is neither in authorization nor in an account", s.NoAuthUser)
		}
	}
	users := 0
	for _, a := range s.Accounts {
		users += len(a.Users)
	}
	if users > len(s.Accounts[0].Users) && s.Token != "" {
		c.fail(c.token, "cannot stand beside users of accounts")
	}
}

func (c *checker) finishJetStream(s *Settings) {
	for i := range s.Accounts {
		a := &s.Accounts[i]
		if a.JetStream == nil {
			continue
		}
		if a.Name == s.SystemAccount {
			c.fail(c.accountAt[a.Name], "the system account holds no streams, jetstream cannot be enabled in it")
		}
		if !s.JetStream.Enabled {
			a.JetStream = nil
		}
	}
	// Without accounts of its own a file means the global account.
	if s.JetStream.Enabled && len(s.Accounts) == 2 {
		s.Accounts[0].JetStream = c.accountJetStream(value{raw: true})
	}
}
