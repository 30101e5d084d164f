package broker_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"millrace/appliance/server/broker"
)

// transports run a test over an in-process pipe and over loopback TCP.
func transports(t *testing.T, cfg broker.Config, test func(t *testing.T, connect func() *conn)) {
	t.Run("pipe", func(t *testing.T) {
		b := newBroker(t, cfg)
		test(t, func() *conn { return pipe(t, b) })
	})
	t.Run("tcp", func(t *testing.T) {
		addr := listen(t, newBroker(t, cfg))
		test(t, func() *conn { return dial(t, addr) })
	})
}

func TestBrokerTellsErrors(t *testing.T) {
	plain := broker.Config{}
	token := broker.Config{Token: "s3cr3t"}
	small := broker.Config{MaxPayload: 10, MaxControlLine: 100, MaxSubs: 1, MaxSubTokens: 3}
	limited := broker.Config{Accounts: []broker.AccountConfig{{Name: "A", Users: []broker.UserConfig{{
		User: "u", Pass: "p", Permissions: &broker.Permissions{
			Publish:   &broker.SubjectPermission{Allow: []string{"ok.>"}, Deny: []string{"ok.not"}},
			Subscribe: &broker.SubjectPermission{Allow: []string{"ok.>", "q work"}, Deny: []string{"ok.secret"}},
		},
	}}}}}
	const bare = `CONNECT {"verbose":false}` + "\r\n"
	const user = `CONNECT {"verbose":false,"user":"u","pass":"p"}` + "\r\n"
	reserved := broker.Config{ReservedReplies: []string{"$X.ACK."}}
	noHeaders := broker.Config{NoHeaders: true}
	for _, c := range []struct {
		name   string
		cfg    broker.Config
		send   string
		want   string // the answer
		closes bool
	}{
		{"unknown verb", plain, quiet + "FOO\r\n", "-ERR 'Unknown Protocol Operation'\r\n", true},
		{"empty line", plain, quiet + "\r\n", "-ERR 'Unknown Protocol Operation'\r\n", true},
		{"payload too long", plain, quiet + "PUB foo 2\r\nabc\r\n", "-ERR 'Unknown Protocol Operation'\r\n", true},
		{"bad PUB", plain, quiet + "PUB foo\r\n", "-ERR 'Unknown Protocol Operation'\r\n", true},
		{"bad SUB", plain, quiet + "SUB foo\r\n", "-ERR 'Unknown Protocol Operation'\r\n", true},
		{"bad UNSUB", plain, quiet + "UNSUB 1 2 3\r\n", "-ERR 'Unknown Protocol Operation'\r\n", true},
		{"bad CONNECT", plain, "CONNECT {\r\n", "-ERR 'Unknown Protocol Operation'\r\n", true},
		{"client -ERR", plain, quiet + "-ERR 'x'\r\n", "", true},
		{"control line", small, bare + "SUB " + strings.Repeat("x", 200) + " 1\r\n", "-ERR 'maximum control line exceeded'\r\n", true},
		{"endless control line", small, bare + "SUB " + strings.Repeat("x", 101), "-ERR 'maximum control line exceeded'\r\n", true},
		{"payload", small, bare + "PUB foo 11\r\n", "-ERR 'Maximum Payload Violation'\r\n", true},
		{"subscriptions", small, bare + "SUB foo 1\r\nSUB bar 2\r\n", "-ERR 'maximum subscriptions exceeded'\r\n", false},
		{"tokens", small, bare + "SUB a.b.c.d 1\r\n",
			"-ERR 'Permissions Violation for Subscription to \"a.b.c.d\", too many tokens'\r\n", false},
		{"invalid subject", plain, quiet + "SUB foo. 1\r\nSUB foo.>.bar 2\r\n", "-ERR 'Invalid Subject'\r\n-ERR 'Invalid Subject'\r\n", false},
		{"pedantic", plain, bare + "PUB foo.* 0\r\n\r\n", "-ERR 'Invalid Publish Subject'\r\n", false},
		{"not pedantic", plain, quiet + "PUB foo.* 0\r\n\r\n", "", false},
		{"protocol version", plain, `CONNECT {"verbose":false,"protocol":2}` + "\r\n", "-ERR 'invalid client protocol'\r\n", true},
		{"no_responders", plain, `CONNECT {"verbose":false,"no_responders":true}` + "\r\n",
			"-ERR 'no responders requires headers support'\r\n", true},
		{"headers off in server", noHeaders, `CONNECT {"verbose":false,"headers":true}` + "\r\nHPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "", true},
		{"headers off in client", plain, bare + "HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n", "", true},
		{"account in CONNECT", plain, `CONNECT {"verbose":false,"account":"A"}` + "\r\n", "-ERR 'Authorization Violation'\r\n", true},
		{"wrong token", token, `CONNECT {"verbose":false,"auth_token":"x"}` + "\r\n", "-ERR 'Authorization Violation'\r\n", true},
		{"no token", token, bare, "-ERR 'Authorization Violation'\r\n", true},
		{"operation before CONNECT", token, "PING\r\n", "-ERR 'Authorization Violation'\r\n", true},
		{"right token", token, `CONNECT {"verbose":false,"auth_token":"s3cr3t"}` + "\r\n", "", false},
		{"publish not allowed", limited, user + "PUB foo 0\r\n\r\n", "-ERR 'Permissions Violation for Publish to \"foo\"'\r\n", false},
		{"publish denied", limited, user + "PUB ok.not 0\r\n\r\n", "-ERR 'Permissions Violation for Publish to \"ok.not\"'\r\n", false},
		{"publish allowed", limited, user + "PUB ok.yes 0\r\n\r\n", "", false},
		{"subscribe not allowed", limited, user + "SUB > 1\r\n", "-ERR 'Permissions Violation for Subscription to \">\"'\r\n", false},
		{"subscribe denied", limited, user + "SUB ok.secret 1\r\n", "-ERR 'Permissions Violation for Subscription to \"ok.secret\"'\r\n", false},
		{"plain on queue permission", limited, user + "SUB q 1\r\n", "-ERR 'Permissions Violation for Subscription to \"q\"'\r\n", false},
		{"wrong queue", limited, user + "SUB q play 1\r\n",
			"-ERR 'Permissions Violation for Subscription to \"q\" using queue \"play\"'\r\n", false},
		{"right queue", limited, user + "SUB q work 1\r\n", "", false},
		{"reserved reply", reserved, quiet + "PUB foo $X.ACK.1 0\r\n\r\n",
			"-ERR 'Permissions Violation for Publish with Reply of \"$X.ACK.1\"'\r\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			transports(t, c.cfg, func(t *testing.T, connect func() *conn) {
				nc := connect()
				// A pipe has no buffer: both sides would wait for the other to read.
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					nc.Write([]byte(c.send))
				}()
				nc.expect(c.want)
				if c.closes {
					nc.expectClosed()
					<-sent
				} else {
					<-sent
					nc.sync()
				}
			})
		})
	}
}

func TestBrokerVerbose(t *testing.T) {
	transports(t, broker.Config{}, func(t *testing.T, connect func() *conn) {
		c := connect()
		c.send("SUB foo 1\r\n") // the defaults before CONNECT are verbose and pedantic
		c.expect("+OK\r\n")
		c.send("CONNECT {}\r\n")
		c.expect("+OK\r\n")
		c.send("SUB bar 2\r\n")
		c.expect("+OK\r\n")
		c.send("PUB bar 2\r\nhi\r\n")
		c.expect("+OK\r\nMSG bar 2 2\r\nhi\r\n")
		c.send("UNSUB 2\r\nUNSUB 99\r\nPING\r\n")
		c.expect("+OK\r\n+OK\r\nPONG\r\n")
	})
}

func TestBrokerPublishSubscribe(t *testing.T) {
	transports(t, broker.Config{}, func(t *testing.T, connect func() *conn) {
		sub, pub := connect().hello(quiet), connect().hello(quiet)
		sub.send("SUB foo.* 1\r\nSUB foo.> 2\r\nSUB foo.bar 3\r\nSUB other 4\r\n")
		sub.sync()
		pub.send("PUB foo.bar reply 5\r\nhello\r\n")
		got := map[string]bool{}
		for range 3 {
			got[sub.line()] = true
			sub.expect("hello\r\n")
		}
		for sid := 1; sid <= 3; sid++ {
			if want := fmt.Sprintf("MSG foo.bar %d reply 5", sid); !got[want] {
				t.Errorf("no %q in %v", want, got)
			}
		}
		pub.send("PUB foo.bar.baz 0\r\n\r\n")
		sub.expect("MSG foo.bar.baz 2 0\r\n\r\n")
		sub.send("UNSUB 2\r\n")
		sub.sync()
		pub.send("PUB foo.bar.baz 0\r\n\r\nPUB other 1\r\nx\r\n")
		sub.expect("MSG other 4 1\r\nx\r\n")
		// A sid in use keeps its subject.
		sub.send("SUB changed 4\r\n")
		sub.sync()
		pub.send("PUB changed 0\r\n\r\nPUB other 1\r\ny\r\n")
		sub.expect("MSG other 4 1\r\ny\r\n")
	})
}

func TestBrokerHeaders(t *testing.T) {
	transports(t, broker.Config{}, func(t *testing.T, connect func() *conn) {
		pub := connect().hello(quiet)
		with := connect().hello(quiet)
		without := connect().hello("CONNECT {\"verbose\":false}\r\n")
		with.send("SUB foo 1\r\n")
		with.sync()
		without.send("SUB foo 1\r\n")
		without.sync()
		pub.send("HPUB foo r 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n")
		with.expect("HMSG foo 1 r 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n")
		without.expect("MSG foo 1 r 5\r\nhello\r\n")
	})
}

func TestBrokerLargePayloads(t *testing.T) {
	transports(t, broker.Config{}, func(t *testing.T, connect func() *conn) {
		with := connect().hello(quiet)
		without := connect().hello("CONNECT {\"verbose\":false}\r\n")
		pub := connect().hello(quiet)
		for _, c := range []*conn{with, without} {
			c.send("SUB foo 1\r\n")
			c.sync()
		}
		for _, size := range []int{0, 1000, 8 << 10, 63 << 10, 64 << 10, 65 << 10, 1<<20 - 12} {
			data := string(bytes.Repeat([]byte{'a' + byte(size%26)}, size))
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				pub.send(fmt.Sprintf("HPUB foo 12 %d\r\nNATS/1.0\r\n\r\n%s\r\n", size+12, data))
			}()
			with.expect(fmt.Sprintf("HMSG foo 1 12 %d\r\nNATS/1.0\r\n\r\n%s\r\n", size+12, data))
			without.expect(fmt.Sprintf("MSG foo 1 %d\r\n%s\r\n", size, data))
			<-sent
		}
	})
}

func TestBrokerNoResponders(t *testing.T) {
	transports(t, broker.Config{}, func(t *testing.T, connect func() *conn) {
		c := connect().hello(quiet)
		c.send("SUB inbox.* 9\r\n")
		c.sync()
		c.send("PUB nobody inbox.1 0\r\n\r\n")
		c.expect("HMSG inbox.1 9 38 38\r\nNATS/1.0 503\r\nNats-Subject: nobody\r\n\r\n\r\n")
		// Not without a subscription for the reply, nor when the client has not asked for it.
		c.send("PUB nobody elsewhere 0\r\n\r\n")
		c.sync()
		old := connect().hello("CONNECT {\"verbose\":false}\r\nSUB inbox.* 9\r\n")
		old.send("PUB nobody inbox.1 0\r\n\r\n")
		old.sync()
	})
}

func TestBrokerEcho(t *testing.T) {
	transports(t, broker.Config{}, func(t *testing.T, connect func() *conn) {
		c := connect().hello(`CONNECT {"verbose":false,"echo":false}` + "\r\n")
		other := connect().hello(quiet)
		c.send("SUB foo 1\r\n")
		c.sync()
		c.send("PUB foo 0\r\n\r\n")
		c.sync()
		other.send("PUB foo 1\r\nx\r\n")
		c.expect("MSG foo 1 1\r\nx\r\n")
	})
}

func TestBrokerAutoUnsubscribe(t *testing.T) {
	b := newBroker(t, broker.Config{})
	c := pipe(t, b).hello(quiet)
	c.send("SUB foo 1\r\nUNSUB 1 2\r\n")
	c.sync()
	c.send("PUB foo 1\r\n1\r\nPUB foo 1\r\n2\r\nPUB foo 1\r\n3\r\nPING\r\n")
	c.expect("MSG foo 1 1\r\n1\r\nMSG foo 1 1\r\n2\r\nPONG\r\n")
	if n := clientSubs(b, broker.GlobalAccount); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	// A maximum that has been reached already ends the subscription at once.
	c.send("SUB foo 1\r\nPUB foo 1\r\n1\r\nUNSUB 1 1\r\nPUB foo 1\r\n2\r\nPING\r\n")
	c.expect("MSG foo 1 1\r\n1\r\nPONG\r\n")
	if b.Account(broker.GlobalAccount).HasInterest("foo") {
		t.Errorf("there is interest still")
	}
}

func TestBrokerQueueGroup(t *testing.T) {
	b := newBroker(t, broker.Config{})
	addr := listen(t, b)
	pub := dial(t, addr).hello(quiet)
	members := make([]*conn, 3)
	for i := range members {
		members[i] = dial(t, addr).hello(quiet)
		members[i].send("SUB job.* workers 1\r\nSUB done 2\r\n")
		members[i].sync()
	}
	watcher := dial(t, addr).hello(quiet)
	watcher.send("SUB job.1 1\r\nSUB done 2\r\n")
	watcher.sync()
	const n = 300
	pub.send(strings.Repeat("PUB job.1 0\r\n\r\n", n) + "PUB done 0\r\n\r\n")
	count := func(c *conn, line string) (got int) {
		for {
			switch l := c.line(); l {
			case line:
				got++
			case "MSG done 2 0":
				c.expect("\r\n")
				return got
			default:
				t.Fatalf("got %q", l)
			}
			c.expect("\r\n")
		}
	}
	if got := count(watcher, "MSG job.1 1 0"); got != n {
		t.Errorf("the plain subscription got %d of %d", got, n)
	}
	total := 0
	for i, m := range members {
		got := count(m, "MSG job.1 1 0")
		if got < n/10 {
			t.Errorf("member %d got %d of %d", i, got, n)
		}
		total += got
	}
	if total != n {
		t.Errorf("the group got %d of %d", total, n)
	}
	// What is left of the group gets everything.
	members[0].Close()
	members[1].Close()
	eventually(t, "members leave", func() bool { return clientSubs(b, broker.GlobalAccount) == 4 })
	pub.send(strings.Repeat("PUB job.2 0\r\n\r\n", n) + "PUB done 0\r\n\r\n")
	if got := count(members[2], "MSG job.2 1 0"); got != n {
		t.Errorf("the last member got %d of %d", got, n)
	}
}

func TestBrokerInfo(t *testing.T) {
	b := newBroker(t, broker.Config{ServerName: "one", Version: "2.15.2", JetStream: true, APILevel: 5, MaxPayload: 4096, Port: 4999})
	addr := listen(t, b)
	c := dial(t, addr)
	i := c.info
	if i.ServerID != b.ID() || len(i.ServerID) != 56 || i.ServerID[0] != 'N' || i.ServerName != "one" || i.Version != "2.15.2" ||
		i.Proto != 1 || !i.Headers || !i.JetStream || i.APILevel != 5 || i.MaxPayload != 4096 || i.Port != 4999 ||
		i.ClientID == 0 || i.ClientIP != "127.0.0.1" || i.AuthRequired || i.Nonce != "" || i.ConnectInfo || i.LameDuck {
		t.Errorf("INFO %+v", i)
	}
	c.send(`CONNECT {"verbose":false,"protocol":1}` + "\r\nPING\r\n")
	c.expect("PONG\r\n")
	c.readInfo(&i)
	if !i.ConnectInfo || i.RemoteAccount != "$G" || i.IsSystemAccount || i.ClientID != c.info.ClientID {
		t.Errorf("second INFO %+v", i)
	}
	c.sync() // once only
}

func TestBrokerMaxConnections(t *testing.T) {
	transports(t, broker.Config{MaxConns: 1}, func(t *testing.T, connect func() *conn) {
		first := connect().hello(quiet)
		second := connect()
		second.expect("-ERR 'maximum connections exceeded'\r\n")
		second.expectClosed()
		first.sync()
	})
}

func TestBrokerAccountLimits(t *testing.T) {
	cfg := broker.Config{MaxPayload: 100, Accounts: []broker.AccountConfig{{
		Name: "A", MaxConns: 1, MaxSubs: 1, MaxPayload: 10, Users: []broker.UserConfig{{User: "u", Pass: "p"}},
	}}}
	transports(t, cfg, func(t *testing.T, connect func() *conn) {
		const login = `CONNECT {"verbose":false,"user":"u","pass":"p"}` + "\r\n"
		c := connect().hello(login)
		c.send("SUB a 1\r\nSUB b 2\r\n")
		c.expect("-ERR 'maximum subscriptions exceeded'\r\n")
		second := connect()
		second.send(login)
		second.expect("-ERR 'maximum account active connections exceeded'\r\n")
		second.expectClosed()
		c.send("PUB a 11\r\n")
		c.expect("-ERR 'Maximum Payload Violation'\r\n")
		c.expectClosed()
	})
}

// TestBrokerErrorReachesBusySender sends a large payload that is refused: the -ERR must arrive
// although the broker closes with unread bytes in the socket.
func TestBrokerErrorReachesBusySender(t *testing.T) {
	addr := listen(t, newBroker(t, broker.Config{MaxPayload: 10}))
	c := dial(t, addr).hello(quiet)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.Write([]byte("PUB foo 1000000\r\n" + strings.Repeat("x", 1_000_000)))
	}()
	c.expect("-ERR 'Maximum Payload Violation'\r\n")
	c.expectClosed()
	c.Close()
	<-sent
}

func TestBrokerShutdownFlushes(t *testing.T) {
	b := newBroker(t, broker.Config{})
	addr := listen(t, b)
	c := dial(t, addr).hello(quiet)
	c.send("SUB foo 1\r\n")
	c.sync()
	if n := b.Account(broker.GlobalAccount).Publish("foo", "", nil, []byte("last words")); n != 1 {
		t.Fatalf("receivers %d", n)
	}
	b.Shutdown()
	c.expect("MSG foo 1 10\r\nlast words\r\n")
	c.expectClosed()
	if nc, err := net.Dial("tcp", addr); err == nil {
		nc.Close()
		t.Errorf("the port is still open")
	}
}

func TestBrokerSlowConsumer(t *testing.T) {
	cfg := broker.Config{MaxPending: 4 << 20, MaxPayload: 1 << 20}
	for _, kind := range []string{"client", "internal"} {
		t.Run(kind, func(t *testing.T) {
			b := newBroker(t, cfg)
			addr := listen(t, b)
			slow := dial(t, addr).hello(quiet)
			slow.send("SUB foo 1\r\n")
			slow.sync()
			good := dial(t, addr).hello(quiet)
			data := bytes.Repeat([]byte("x"), 1<<20)
			pub := dial(t, addr).hello(quiet)
			for range 30 {
				if kind == "internal" {
					b.Account(broker.GlobalAccount).Publish("foo", "", nil, data)
				} else {
					pub.send(fmt.Sprintf("PUB foo %d\r\n%s\r\n", len(data), data))
				}
			}
			pub.sync()
			good.sync()
			eventually(t, "slow consumer is cut off", func() bool { return b.SlowConsumers() == 1 })
			eventually(t, "its subscription ends", func() bool { return clientSubs(b, broker.GlobalAccount) == 0 })
		})
	}
}
