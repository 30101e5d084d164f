package broker

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"regexp"

	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/bcrypt"

	"millrace/appliance/server/wire"
)

// user is a configured user with what it is bound to.
type user struct {
	UserConfig
	account     *Account
	permissions *permissions
}

// authenticator decides which account and permissions a connection gets. It does not change.
type authenticator struct {
	required  bool
	nonces    bool // there are nkey users
	token     string
	users     map[string]*user
	noAuth    *user // bound when there are no credentials; nil: none
	anonymous bool  // only the system account has users: others need no credentials
	global    *Account
	bcrypt    *regexp.Regexp
}

func newAuthenticator(cfg *Config, accounts map[string]*Account) *authenticator {
	a := &authenticator{
		token:  cfg.Token,
		users:  make(map[string]*user),
		global: accounts[GlobalAccount],
		bcrypt: regexp.MustCompile(`^\$2[abxy]\$\d\d\$.{53}$`),
	}
	onlySystem := cfg.Token == "" && cfg.NoAuthUser == ""
	for _, ac := range cfg.Accounts {
		if ac.Name != GlobalAccount && ac.Name != cfg.SystemAccount {
			onlySystem = false
		}
		for _, u := range ac.Users {
			a.users[u.id()] = &user{u, accounts[ac.Name], compilePermissions(u.Permissions)}
			a.nonces = a.nonces || u.Nkey != ""
			onlySystem = onlySystem && ac.Name == cfg.SystemAccount
		}
	}
	a.required = len(a.users) > 0 || a.token != ""
	a.noAuth = a.users[cfg.NoAuthUser]
	a.anonymous = a.required && onlySystem
	return a
}

// newNonce returns what a client with an nkey signs.
func newNonce() string {
	var raw [11]byte
	rand.Read(raw[:])
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// identity is the outcome of authentication.
type identity struct {
	account     *Account
	permissions *permissions
	user        string
	noAuth      bool
}

// check returns the identity that the credentials of a CONNECT prove.
func (a *authenticator) check(c *wire.Connect, nonce string) (identity, bool) {
	if !a.required {
		return identity{account: a.global, user: c.User}, true
	}
	none := c.User == "" && c.Pass == "" && c.Token == "" && c.Nkey == ""
	if none && a.noAuth != nil {
		return identity{a.noAuth.account, a.noAuth.permissions, a.noAuth.id(), true}, true
	}
	if none && a.anonymous {
		return identity{account: a.global, noAuth: true}, true
	}
	if a.token != "" {
		return identity{account: a.global}, a.equal(a.token, c.Token)
	}
	if c.Nkey != "" {
		u := a.users[c.Nkey]
		if u == nil || u.Nkey == "" || !verify(u.Nkey, nonce, c.Sig) {
			return identity{}, false
		}
		return identity{account: u.account, permissions: u.permissions, user: u.Nkey}, true
	}
	u := a.users[c.User]
	if u == nil || u.User == "" || !a.equal(u.Pass, c.Pass) {
		return identity{}, false
	}
	return identity{account: u.account, permissions: u.permissions, user: u.User}, true
}

// equal compares a configured secret, plain or bcrypt, with what a client sent.
func (a *authenticator) equal(secret, sent string) bool {
	if a.bcrypt.MatchString(secret) {
		return bcrypt.CompareHashAndPassword([]byte(secret), []byte(sent)) == nil
	}
	return subtle.ConstantTimeCompare([]byte(secret), []byte(sent)) == 1
}

// verify reports whether sig is the signature of the nonce by the holder of the nkey.
func verify(nkey, nonce, sig string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		if raw, err = base64.StdEncoding.DecodeString(sig); err != nil {
			return false
		}
	}
	key, err := nkeys.FromPublicKey(nkey)
	return err == nil && key.Verify([]byte(nonce), raw) == nil
}
