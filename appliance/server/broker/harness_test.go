package broker_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/broker"
	"millrace/appliance/server/wire"
)

// patience bounds every wait of a test.
const patience = 10 * time.Second

func newBroker(t testing.TB, cfg broker.Config) *broker.Broker {
	t.Helper()
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Shutdown)
	return b
}

// listen serves b on a loopback port and returns its address.
func listen(t testing.TB, b *broker.Broker) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Serve(l) }()
	t.Cleanup(func() {
		b.Shutdown()
		// A test may be over before Serve has begun.
		if err := <-done; err != nil && !errors.Is(err, broker.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// conn is a client that speaks the protocol by hand.
type conn struct {
	testing.TB
	net.Conn
	r    *bufio.Reader
	info wire.Info
}

// pipe connects in process; over net.Pipe a write of either side waits for the other to read.
func pipe(t testing.TB, b *broker.Broker) *conn {
	t.Helper()
	nc, err := b.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(patience))
	return newConn(t, nc)
}

// dial connects over loopback TCP.
func dial(t testing.TB, addr string) *conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(patience))
	return newConn(t, nc)
}

func newConn(t testing.TB, nc net.Conn) *conn {
	t.Helper()
	t.Cleanup(func() { nc.Close() })
	c := &conn{t, nc, bufio.NewReader(nc), wire.Info{}}
	c.readInfo(&c.info)
	return c
}

func (c *conn) readInfo(info *wire.Info) {
	c.Helper()
	line := c.line()
	doc, ok := strings.CutPrefix(line, "INFO ")
	if !ok {
		c.Fatalf("got %q, want INFO", line)
	}
	if err := json.Unmarshal([]byte(doc), info); err != nil {
		c.Fatal(err)
	}
}

// line reads one line without its CR LF.
func (c *conn) line() string {
	c.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.Fatalf("read: %v after %q", err, line)
	}
	return strings.TrimSuffix(line, "\r\n")
}

func (c *conn) send(s string) {
	c.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.Fatalf("write %.60q: %v", s, err)
	}
}

// expect reads exactly the bytes of s.
func (c *conn) expect(s string) {
	c.Helper()
	buf := make([]byte, len(s))
	n, err := io.ReadFull(c.r, buf)
	if got := string(buf[:n]); got != s {
		c.Fatalf("got %.300q (%v), want %.300q", got, err, s)
	}
}

// awaits is expect, between PINGs of the server.
func (c *conn) awaits(want string) {
	c.Helper()
	for line := range strings.SplitAfterSeq(want, "\r\n") {
		if line == "" {
			continue
		}
		got := c.line()
		for got == "PING" {
			c.send("PONG\r\n")
			got = c.line()
		}
		if got+"\r\n" != line {
			c.Fatalf("got %q, want %q", got, line)
		}
	}
}

// expectClosed reads the end of the connection.
func (c *conn) expectClosed() {
	c.Helper()
	rest, err := io.ReadAll(c.r)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		c.Fatalf("connection is still open")
	}
	if len(rest) > 0 {
		c.Fatalf("got %q before the end", rest)
	}
}

// quiet are the options of a client that is told errors only.
const quiet = `CONNECT {"verbose":false,"pedantic":false,"protocol":0,"headers":true,"no_responders":true}` + "\r\n"

// hello sends CONNECT and waits until it has been handled.
func (c *conn) hello(connect string) *conn {
	c.Helper()
	c.send(connect)
	c.sync()
	return c
}

// sync waits until everything sent so far has been handled.
func (c *conn) sync() {
	c.Helper()
	c.send("PING\r\n")
	c.awaits("PONG\r\n")
}

// clientSubs returns the number of subscriptions of an account's clients.
func clientSubs(b *broker.Broker, account string) int {
	z, err := b.Connz(broker.ConnzOptions{Account: account, Subscriptions: true})
	if err != nil {
		panic(err)
	}
	n := 0
	for _, c := range z.Conns {
		n += len(c.Subs)
	}
	return n
}

// eventually waits for a condition that has no event to wait for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	tick := time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("timeout: %s", what)
		}
	}
}
