package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/broker"
)

// routeTLS makes an authority and a certificate of it for a host name.
func routeTLS(t *testing.T, host string) *tls.Config {
	t.Helper()
	now := time.Now()
	issue := func(c, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(now.UnixNano()), now.Add(-time.Hour), now.Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, caKey := issue(ca, ca, nil)
	leaf := &x509.Certificate{DNSNames: []string{host}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, key := issue(leaf, ca, caKey)
	root, err := x509.ParseCertificate(caDER)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}
}

// TestRouteTLSNames has certificates for a host name alone: servers that gossip names by their address
// prove themselves by the name of a configured route, others do not.
func TestRouteTLSNames(t *testing.T) {
	cfg := routeTLS(t, "localhost")
	secure := func(c *broker.Config) { c.Cluster.TLS = cfg }
	byName := func(m *member) string {
		_, port, _ := net.SplitHostPort(m.routes)
		return net.JoinHostPort("localhost", port)
	}
	a := join(t, "a", secure)
	b := join(t, "b", secure, byName(a))
	c := join(t, "c", secure, byName(a))
	meshed(t, a, b, c)
	stranger := join(t, "stranger", secure, a.routes) // knows no name
	eventually(t, "complaint", func() bool { return strings.Contains(stranger.log.String(), "certificate is valid for none of") })
	if n := stranger.Routez().NumRoutes; n != 0 {
		t.Errorf("%d routes", n)
	}
	// Over TLS a burst arrives whole too.
	got := make(chan int, 1)
	n := 0
	if _, err := c.Account("$G").Subscribe("foo", "", func(m *broker.Msg) {
		if n += len(m.Data); n == 100*10_000 {
			got <- n
		}
	}); err != nil {
		t.Fatal(err)
	}
	interested(t, b, "foo", true)
	data := []byte(strings.Repeat("x", 10_000))
	for range 100 {
		b.Account("$G").Publish("foo", "", nil, data)
	}
	<-got
}
