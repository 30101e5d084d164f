// Package servertest starts parts of a server in the process of a test. Tests of every level use it;
// nothing else does.
package servertest

import (
	"net"
	"testing"

	"millrace/appliance/server/broker"
)

// StartBroker serves clients on a loopback port until the end of the test, and returns the broker
// and the URL of the port.
func StartBroker(t testing.TB, cfg broker.Config) (b *broker.Broker, url string) {
	t.Helper()
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Serve(l) }()
	t.Cleanup(func() {
		b.Shutdown()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return b, "nats://" + l.Addr().String()
}
