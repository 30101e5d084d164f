package broker_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"golang.org/x/crypto/bcrypt"

	"millrace/appliance/server/broker"
)

func login(user, pass string) string {
	return fmt.Sprintf(`CONNECT {"verbose":false,"pedantic":false,"user":%q,"pass":%q}`+"\r\n", user, pass)
}

// refused checks that a CONNECT is answered by an authorization violation.
func (c *conn) refused(connect string) {
	c.Helper()
	c.send(connect)
	c.expect("-ERR 'Authorization Violation'\r\n")
	c.expectClosed()
}

func TestBrokerUsers(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("hashed"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	b := newBroker(t, broker.Config{Accounts: []broker.AccountConfig{
		{Name: "A", Users: []broker.UserConfig{{User: "plain", Pass: "secret"}, {User: "crypt", Pass: string(hash)}}},
		{Name: "B", Users: []broker.UserConfig{{User: "other", Pass: ""}}},
	}})
	if c := pipe(t, b); !c.info.AuthRequired {
		t.Errorf("INFO does not ask for authentication")
	}
	a1 := pipe(t, b).hello(login("plain", "secret"))
	a2 := pipe(t, b).hello(login("crypt", "hashed"))
	other := pipe(t, b).hello(login("other", ""))
	pipe(t, b).refused(login("plain", "hashed"))
	pipe(t, b).refused(login("crypt", string(hash)))
	pipe(t, b).refused(login("nobody", "secret"))
	pipe(t, b).refused(login("", ""))
	pipe(t, b).refused(`CONNECT {"verbose":false,"auth_token":"secret"}` + "\r\n")

	// Accounts do not see each other's messages.
	for _, c := range []*conn{a1, other} {
		c.send("SUB > 1\r\n")
		c.sync()
	}
	a2.send("PUB foo 1\r\na\r\n")
	a1.expect("MSG foo 1 1\r\na\r\n")
	other.sync()
	if a, o := b.Account("A").Connections(), b.Account("B").Connections(); a != 2 || o != 1 {
		t.Errorf("connections of A %d, of B %d", a, o)
	}
	if n := b.Account("A").Traffic(); n.InMsgs != 1 || n.InBytes != 1 || n.OutMsgs != 1 || n.OutBytes != 1 {
		t.Errorf("traffic of A %+v", n)
	}
	// A second CONNECT moves the client and ends its subscriptions.
	a1.hello(login("other", ""))
	a2.send("PUB foo 1\r\nb\r\n")
	a2.sync()
	a1.send("SUB > 2\r\n")
	a1.sync()
	other.send("PUB bar 0\r\n\r\n")
	a1.expect("MSG bar 2 0\r\n\r\n")
	other.expect("MSG bar 1 0\r\n\r\n")
	if a, o := b.Account("A").Connections(), b.Account("B").Connections(); a != 1 || o != 2 {
		t.Errorf("connections of A %d, of B %d", a, o)
	}
}

func TestBrokerNkeyUser(t *testing.T) {
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := key.PublicKey()
	stranger, _ := nkeys.CreateUser()
	b := newBroker(t, broker.Config{Accounts: []broker.AccountConfig{{Name: "A", Users: []broker.UserConfig{{Nkey: public}}}}})
	connect := func(c *conn, key nkeys.KeyPair, nonce string) string {
		sig, err := key.Sign([]byte(nonce))
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`CONNECT {"verbose":false,"nkey":%q,"sig":%q}`+"\r\n", public, base64.RawURLEncoding.EncodeToString(sig))
	}
	c := pipe(t, b)
	if c.info.Nonce == "" {
		t.Fatalf("no nonce in INFO")
	}
	c.hello(connect(c, key, c.info.Nonce))
	replay := c.info.Nonce
	c = pipe(t, b)
	c.refused(connect(c, key, replay))
	c = pipe(t, b)
	c.refused(connect(c, stranger, c.info.Nonce))
	pipe(t, b).refused(fmt.Sprintf(`CONNECT {"verbose":false,"nkey":%q}`+"\r\n", public))
	pipe(t, b).refused(login(public, ""))
}

func TestBrokerNoAuthUser(t *testing.T) {
	b := newBroker(t, broker.Config{NoAuthUser: "guest", Accounts: []broker.AccountConfig{
		{Name: "A", Users: []broker.UserConfig{{User: "admin", Pass: "secret"}}},
		{Name: "B", Users: []broker.UserConfig{{User: "guest", Pass: "unused", Permissions: &broker.Permissions{
			Publish: &broker.SubjectPermission{Deny: []string{"no"}}}}}},
	}})
	c := pipe(t, b)
	if c.info.AuthRequired {
		t.Errorf("INFO asks for authentication")
	}
	c.hello(quiet)
	c.send("PUB no 0\r\n\r\n")
	c.expect("-ERR 'Permissions Violation for Publish to \"no\"'\r\n")
	silent := pipe(t, b) // never sends CONNECT
	silent.send("SUB foo 1\r\n")
	silent.expect("+OK\r\n")
	if n := clientSubs(b, "B"); n != 1 {
		t.Errorf("subscriptions of B: %d", n)
	}
	pipe(t, b).refused(login("admin", "wrong"))
	pipe(t, b).hello(login("admin", "secret"))
}

func TestBrokerAnonymousBesideSystemUsers(t *testing.T) {
	b := newBroker(t, broker.Config{Accounts: []broker.AccountConfig{
		{Name: "$SYS", Users: []broker.UserConfig{{User: "sys", Pass: "p"}}},
	}})
	pipe(t, b).hello(quiet)
	if n := b.Account("$G").Connections(); n != 1 {
		t.Errorf("connections of $G: %d", n)
	}
	c := pipe(t, b)
	c.send(`CONNECT {"verbose":false,"user":"sys","pass":"p","protocol":1}` + "\r\nPING\r\n")
	c.expect("PONG\r\n")
	c.readInfo(&c.info)
	if c.info.RemoteAccount != "$SYS" || !c.info.IsSystemAccount {
		t.Errorf("INFO %+v", c.info)
	}
	pipe(t, b).refused(login("sys", "x"))
}

func TestBrokerDeniedSubjectsOfWildcardSubscription(t *testing.T) {
	b := newBroker(t, broker.Config{Accounts: []broker.AccountConfig{{Name: "A", Users: []broker.UserConfig{
		{User: "u", Pass: "p", Permissions: &broker.Permissions{Subscribe: &broker.SubjectPermission{
			Deny: []string{"foo.secret", "foo.*.secret", "foo.work q"}}}},
		{User: "pub", Pass: "p"},
	}}}})
	c := pipe(t, b).hello(login("u", "p"))
	pub := pipe(t, b).hello(login("pub", "p"))
	c.send("SUB foo.> 1\r\n")
	c.sync()
	c.send("SUB foo.secret 2\r\n")
	c.expect("-ERR 'Permissions Violation for Subscription to \"foo.secret\"'\r\n")
	c.send("SUB foo.work q 3\r\n")
	c.expect("-ERR 'Permissions Violation for Subscription to \"foo.work\" using queue \"q\"'\r\n")
	c.send("SUB foo.* q 4\r\n")
	c.sync()
	go pub.Write([]byte("PUB foo.secret 0\r\n\r\nPUB foo.a.secret 0\r\n\r\nPUB foo.work 0\r\n\r\n"))
	c.expect("MSG foo.work 1 0\r\n\r\n")
	c.sync()
}

func TestConfigValidation(t *testing.T) {
	users := func(u ...broker.UserConfig) broker.Config {
		return broker.Config{Accounts: []broker.AccountConfig{{Name: "A", Users: u}}}
	}
	perms := func(p broker.Permissions) broker.Config { return users(broker.UserConfig{User: "u", Permissions: &p}) }
	for want, cfg := range map[string]broker.Config{
		`invalid account name ""`:              {Accounts: []broker.AccountConfig{{}}},
		`account "A" is defined twice`:         {Accounts: []broker.AccountConfig{{Name: "A"}, {Name: "A"}}},
		`user "u" is defined twice`:            users(broker.UserConfig{User: "u"}, broker.UserConfig{User: "u"}),
		`user needs exactly one of name`:       users(broker.UserConfig{}),
		`invalid public user nkey "x"`:         users(broker.UserConfig{Nkey: "x"}),
		`no_auth_user "x" is not a configured`: {NoAuthUser: "x"},
		`MaxControlLine is negative: -1`:       {MaxControlLine: -1},
		`MaxPayload 2147483648 is more than`:   {MaxPayload: 1 << 31},
		`is more than MaxPending 10`:           {MaxPending: 10},
		`server name "a b" has white space`:    {ServerName: "a b"},
		`invalid publish permission "a..b"`:    perms(broker.Permissions{Publish: &broker.SubjectPermission{Allow: []string{"a..b"}}}),
		`invalid publish permission "a q"`:     perms(broker.Permissions{Publish: &broker.SubjectPermission{Deny: []string{"a q"}}}),
		`invalid subscribe permission "a b c"`: perms(broker.Permissions{Subscribe: &broker.SubjectPermission{Deny: []string{"a b c"}}}),
		`a token and users exclude`: {Token: "t", Accounts: []broker.AccountConfig{
			{Name: "A", Users: []broker.UserConfig{{User: "u"}}}}},
	} {
		_, err := broker.New(cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	parsed, _ := x509.ParseCertificate(der)
	pool.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, pool
}

func TestBrokerTLS(t *testing.T) {
	server, roots := certificate(t)
	client := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	secure := func(c *conn) *conn {
		t.Helper()
		tc := tls.Client(c.Conn, client)
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		return &conn{t, tc, bufio.NewReader(tc), c.info}
	}
	t.Run("required", func(t *testing.T) {
		b := newBroker(t, broker.Config{TLS: server})
		addr := listen(t, b)
		c := dial(t, addr)
		if !c.info.TLSRequired || c.info.TLSAvailable || c.info.TLSVerify {
			t.Errorf("INFO %+v", c.info)
		}
		c = secure(c).hello(quiet)
		c.send("SUB foo 1\r\n")
		c.sync()
		data := strings.Repeat("x", 200<<10)
		go c.Write([]byte(fmt.Sprintf("PUB foo %d\r\n%s\r\n", len(data), data)))
		c.expect(fmt.Sprintf("MSG foo 1 %d\r\n%s\r\n", len(data), data))
		plain := dial(t, addr)
		plain.send(quiet)
		if _, err := plain.r.ReadString('\n'); err == nil {
			t.Errorf("a plain client is served")
		}
		local := pipe(t, b)
		if local.info.TLSRequired || !local.info.TLSAvailable {
			t.Errorf("INFO in process %+v", local.info)
		}
		local.hello(quiet)
	})
	t.Run("available", func(t *testing.T) {
		addr := listen(t, newBroker(t, broker.Config{TLS: server, AllowNonTLS: true}))
		c := dial(t, addr)
		if c.info.TLSRequired || !c.info.TLSAvailable {
			t.Errorf("INFO %+v", c.info)
		}
		secure(c).hello(quiet)
		dial(t, addr).hello(quiet)
	})
	t.Run("first", func(t *testing.T) {
		addr := listen(t, newBroker(t, broker.Config{TLS: server, TLSHandshakeFirst: true}))
		nc, err := tls.Dial("tcp", addr, client)
		if err != nil {
			t.Fatal(err)
		}
		newConn(t, nc).hello(quiet)
	})
	t.Run("timeout", func(t *testing.T) {
		addr := listen(t, newBroker(t, broker.Config{TLS: server, TLSTimeout: 50 * time.Millisecond}))
		dial(t, addr).expectClosed()
	})
}
