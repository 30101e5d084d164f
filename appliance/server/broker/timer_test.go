package broker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/broker"
)

// bubble runs a test of timers with a broker in a bubble of fake time.
func bubble(t *testing.T, cfg broker.Config, test func(t *testing.T, b *broker.Broker, connect func() *conn)) {
	synctest.Test(t, func(t *testing.T) {
		b, err := broker.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		test(t, b, func() *conn {
			nc, err := b.InProcessConn()
			if err != nil {
				t.Fatal(err)
			}
			return newConn(t, nc)
		})
		b.Shutdown()
	})
}

func TestBrokerStaleConnection(t *testing.T) {
	bubble(t, broker.Config{PingInterval: time.Minute, MaxPingsOut: 2}, func(t *testing.T, b *broker.Broker, connect func() *conn) {
		start := time.Now()
		c := connect().hello(quiet)
		c.expect("PING\r\n") // soon after CONNECT, to measure the round trip
		if d := time.Since(start); d < 2*time.Second || d > 3*time.Second {
			t.Errorf("first PING after %v", d)
		}
		c.send("PONG\r\n")
		c.expect("PING\r\nPING\r\n-ERR 'Stale Connection'\r\n")
		c.expectClosed()
		if d := time.Since(start); d < 3*time.Minute || d > 4*time.Minute {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestBrokerActiveClientIsNotPinged(t *testing.T) {
	bubble(t, broker.Config{PingInterval: time.Minute}, func(t *testing.T, b *broker.Broker, connect func() *conn) {
		c := connect().hello(quiet)
		c.expect("PING\r\n")
		c.send("PONG\r\n")
		for range 10 {
			<-time.After(50 * time.Second)
			c.send("PUB foo 0\r\n\r\n")
		}
		c.sync() // PONG comes first: there was no PING
	})
}

func TestBrokerAuthTimeout(t *testing.T) {
	bubble(t, broker.Config{Token: "x", AuthTimeout: 3 * time.Second}, func(t *testing.T, b *broker.Broker, connect func() *conn) {
		start := time.Now()
		c := connect()
		c.expect("-ERR 'Authentication Timeout'\r\n")
		c.expectClosed()
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("closed after %v", d)
		}
		// A client that is in time stays.
		c = connect().hello(`CONNECT {"verbose":false,"auth_token":"x"}` + "\r\n")
		c.expect("PING\r\n")
		<-time.After(5 * time.Second)
		c.sync()
	})
}

func TestBrokerWriteDeadline(t *testing.T) {
	bubble(t, broker.Config{WriteDeadline: 7 * time.Second}, func(t *testing.T, b *broker.Broker, connect func() *conn) {
		c := connect().hello(quiet)
		c.send("SUB foo 1\r\n")
		c.sync()
		start := time.Now()
		b.Account(broker.GlobalAccount).Publish("foo", "", nil, []byte("nobody reads this"))
		for b.SlowConsumers() == 0 {
			<-time.After(100 * time.Millisecond)
		}
		if d := time.Since(start); d < 7*time.Second || d > 8*time.Second {
			t.Errorf("cut off after %v", d)
		}
		c.expectClosed()
	})
}

func TestBrokerLameDuck(t *testing.T) {
	bubble(t, broker.Config{}, func(t *testing.T, b *broker.Broker, connect func() *conn) {
		var conns []*conn
		for range 3 {
			c := connect()
			c.send(`CONNECT {"verbose":false,"protocol":1}` + "\r\nPING\r\n")
			c.expect("PONG\r\n")
			c.readInfo(&c.info)
			conns = append(conns, c)
		}
		start := time.Now()
		ended := make(chan time.Duration, len(conns))
		for _, c := range conns {
			go func() {
				defer func() { ended <- time.Since(start) }()
				told := false
				for {
					line, err := c.r.ReadString('\n')
					if err != nil {
						break
					}
					switch {
					case line == "PING\r\n":
						c.Write([]byte("PONG\r\n"))
					case time.Since(start) < time.Second:
						told = true
					}
				}
				if !told {
					t.Errorf("no INFO at the start of lame duck mode")
				}
			}()
		}
		b.LameDuck(t.Context(), 12*time.Second, 10*time.Second)
		var last time.Duration
		for range conns {
			d := <-ended
			if d < 10*time.Second || d > 12*time.Second {
				t.Errorf("closed after %v", d)
			}
			if d == last {
				t.Errorf("two connections closed at %v", d)
			}
			last = d
		}
		if _, err := b.InProcessConn(); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("connect after lame duck mode: %v", err)
		}
	})
}

// TestBrokerAllowResponses lets a responder answer the requests it got, and nothing else.
func TestBrokerAllowResponses(t *testing.T) {
	cfg := broker.Config{Accounts: []broker.AccountConfig{{Name: "A", Users: []broker.UserConfig{
		{User: "responder", Pass: "p", Permissions: &broker.Permissions{
			Subscribe:      &broker.SubjectPermission{Allow: []string{"service"}},
			AllowResponses: &broker.ResponsePermission{MaxMsgs: 2, Expires: time.Minute},
		}},
		{User: "requester", Pass: "p"},
	}}}}
	bubble(t, cfg, func(t *testing.T, b *broker.Broker, connect func() *conn) {
		responder := connect().hello(`CONNECT {"verbose":false,"user":"responder","pass":"p"}` + "\r\n")
		requester := connect().hello(`CONNECT {"verbose":false,"user":"requester","pass":"p"}` + "\r\n")
		responder.send("SUB service 1\r\n")
		responder.sync()
		requester.send("SUB inbox.* 1\r\n")
		requester.sync()
		refuse := func(subject string) {
			t.Helper()
			responder.send("PUB " + subject + " 0\r\n\r\n")
			responder.expect("-ERR 'Permissions Violation for Publish to \"" + subject + "\"'\r\n")
		}
		refuse("inbox.1")
		requester.send("PUB service inbox.1 0\r\n\r\n")
		responder.expect("MSG service 1 inbox.1 0\r\n\r\n")
		refuse("inbox.2")
		for range 2 {
			responder.send("PUB inbox.1 0\r\n\r\n")
			requester.expect("MSG inbox.1 1 0\r\n\r\n")
		}
		refuse("inbox.1") // used up
		requester.send("PUB service inbox.3 0\r\n\r\n")
		responder.expect("MSG service 1 inbox.3 0\r\n\r\n")
		responder.expect("PING\r\n")
		requester.expect("PING\r\n")
		<-time.After(61 * time.Second)
		refuse("inbox.3") // expired
	})
}

// TestBrokerShutdownIsBounded shuts down while clients read nothing, before and after INFO.
func TestBrokerShutdownIsBounded(t *testing.T) {
	bubble(t, broker.Config{}, func(t *testing.T, b *broker.Broker, connect func() *conn) {
		c := connect().hello(quiet)
		c.send("SUB foo 1\r\n")
		c.sync()
		b.Account(broker.GlobalAccount).Publish("foo", "", nil, []byte("nobody reads this"))
		if _, err := b.InProcessConn(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		b.Shutdown()
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("shutdown took %v", d)
		}
		c.expectClosed()
	})
}
