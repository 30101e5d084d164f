package transport

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"millrace/raft"
)

// authority issues certificates for 127.0.0.1.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = sign(t, template, template, nil)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a key and a certificate of it, signed by key or, if that is nil, by itself.
func sign(t *testing.T, template, parent *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if key == nil {
		key = own
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &own.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, own
}

func (a *authority) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	cert, key := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// configure gives a node certificates for both directions, with mutual authentication.
func (a *authority) configure(t *testing.T, c *Config) {
	cert := a.certificate(t)
	c.ClientTLS = &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{cert}}
	c.ServerTLS = &tls.Config{ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{cert}}
}

func TestTLSDelivers(t *testing.T) {
	ca := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		a, b := pair(t, func(c *Config) {
			ca.configure(t, c)
			c.ClientTLS.MinVersion, c.ClientTLS.MaxVersion = version, version
		})
		const frames = 200
		for i := range frames {
			frame := make([]byte, 8+i*i%90000)
			frame[0] = byte(i)
			waitFor(t, "room", func() bool { return a.Send(2, raft.LaneBulk, [][]byte{frame[:5], frame[5:]}) })
			waitFor(t, "room", func() bool { return b.Send(1, raft.LaneAppend, [][]byte{frame}) })
		}
		waitFor(t, "frames", func() bool { return a.count(2, raft.LaneAppend) == frames && b.count(1, raft.LaneBulk) == frames })
		for i, frame := range b.got(1, raft.LaneBulk) {
			if len(frame) != 8+i*i%90000 || frame[0] != byte(i) {
				t.Fatalf("frame %d of %d bytes begins with %d", i, len(frame), frame[0])
			}
		}
		if r := a.Stats().Peers[0].Lanes[0]; !r.Connected {
			t.Errorf("%+v", r)
		}
		a.Close()
		b.Close()
	}
}

// TestTLSRefusals holds that nobody is let in without TLS, or with that of others.
func TestTLSRefusals(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	good := func(c *Config) { ca.configure(t, c) }
	tests := []struct {
		name   string
		one    func(*Config) // of the dialer
		two    func(*Config)
		texts  []string // in the dialer's log
		reason string   // in the acceptor's counters
	}{
		{"plain dialer", func(*Config) {}, good, []string{"closed by the other end"}, "other"},
		{"plain acceptor", good, func(*Config) {}, nil, ErrProtocol.Error()},
		{"acceptor of another authority", good, func(c *Config) { other.configure(t, c); c.ServerTLS.ClientAuth = tls.NoClientCert },
			[]string{"unknown authority"}, "other"},
		{"dialer of another authority", func(c *Config) { good(c); c.ClientTLS.Certificates = []tls.Certificate{other.certificate(t)} }, good,
			[]string{"no connection"}, "other"},
		{"dialer without a certificate", func(c *Config) { good(c); c.ClientTLS.Certificates = nil }, good,
			[]string{"no connection"}, "other"},
		{"another secret", func(c *Config) { good(c); c.Credentials = secret("some other secret") }, good,
			[]string{"wrong credentials"}, ErrCredentials.Error()},
		{"acceptor that only calls with TLS", func(*Config) {}, func(c *Config) { good(c); c.ServerTLS = nil },
			[]string{"closed by the other end"}, ErrInsecure.Error()},
	}
	for _, test := range tests {
		one, two := fast(1), fast(2)
		one.BackoffMin, one.BackoffMax = 50*time.Millisecond, 50*time.Millisecond
		test.one(&one)
		test.two(&two)
		b := begin(t, two)
		a := begin(t, one)
		if err := errors.Join(b.AddPeer(1, nil), a.AddPeer(2, []string{b.address})); err != nil {
			t.Fatal(err)
		}
		waitFor(t, test.name+": refusals", func() bool {
			return b.Stats().Refused[test.reason] > 0 && a.logs.count(append(test.texts, "level=WARN")...) > 0 &&
				b.logs.count("level=WARN", "refused connection") > 0
		})
		if _, n := a.connected(2); n != 0 {
			t.Errorf("%s: connected", test.name)
		}
		a.Close()
		b.Close()
	}
}

// peeked is a TLS connection of which the caller of Accept has read the first bytes.
type peeked struct {
	*tls.Conn
	r io.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// TestTLSSharedPort accepts as a port does that other protocols use too: after a greeting in plain,
// with TLS done by the port, and the first bytes looked at.
func TestTLSSharedPort(t *testing.T) {
	ca := newAuthority(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const greeting = "INFO {}\r\n"
	two := fast(2)
	ca.configure(t, &two)
	server := two.ServerTLS
	two.ServerTLS = nil // the port does it
	b := open(t, two)
	defer b.Close()
	var port sync.WaitGroup
	defer port.Wait()
	defer listener.Close()
	port.Go(func() {
		for {
			nc, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(nc, greeting)
			tc := tls.Server(nc, server)
			first := make([]byte, len(Magic))
			if _, err := io.ReadFull(tc, first); err != nil || string(first) != Magic {
				tc.Close()
				continue
			}
			b.Accept(&peeked{tc, io.MultiReader(bytes.NewReader(first), tc)})
		}
	})
	one := fast(1)
	ca.configure(t, &one)
	one.Dial = func(_ context.Context, address string) (net.Conn, error) {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		b := make([]byte, len(greeting))
		if _, err := io.ReadFull(nc, b); err != nil || string(b) != greeting {
			nc.Close()
			return nil, errors.Join(errors.New("no greeting"), err)
		}
		return nc, nil
	}
	a := begin(t, one)
	if err := errors.Join(b.AddPeer(1, nil), a.AddPeer(2, []string{listener.Addr().String()})); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, a, 2)
	waitLanes(t, b, 1)
	if !b.Send(1, raft.LaneControl, [][]byte{{1, 2}, {3}}) {
		t.Error("no room")
	}
	waitFor(t, "frame", func() bool { return a.count(2, raft.LaneControl) == 1 })
}

// TestTLSRelayed puts somebody between two nodes who has a certificate that both trust, and passes on
// all bytes. The proofs do not fit the two channels.
func TestTLSRelayed(t *testing.T) {
	ca := newAuthority(t)
	two := fast(2)
	ca.configure(t, &two)
	b := begin(t, two)
	middle := ca.certificate(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{middle}})
	if err != nil {
		t.Fatal(err)
	}
	var relays sync.WaitGroup
	defer relays.Wait()
	defer listener.Close()
	relays.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := tls.Dial("tcp", b.address, &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{middle}})
			if err != nil {
				in.Close()
				continue
			}
			relays.Go(func() { io.Copy(in, out); in.Close() })
			relays.Go(func() { io.Copy(out, in); out.Close() })
		}
	})
	one := fast(1)
	ca.configure(t, &one)
	a := begin(t, one)
	if err := errors.Join(b.AddPeer(1, nil), a.AddPeer(2, []string{listener.Addr().String()})); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "refusals", func() bool {
		return b.Stats().Refused[ErrCredentials.Error()] > 0 && a.logs.count("wrong credentials") > 0
	})
	if _, n := a.connected(2); n != 0 {
		t.Error("connected through somebody in the middle")
	}
	a.Close()
	b.Close()
}
