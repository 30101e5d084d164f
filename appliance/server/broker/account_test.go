package broker_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/appliance/server/broker"
)

func TestAccountSubscribe(t *testing.T) {
	b := newBroker(t, broker.Config{ServerName: "s"})
	a := b.Account(broker.GlobalAccount)
	type got struct{ subject, reply, header, data, user string }
	var msgs []got
	var info *broker.ClientInfo
	sub, err := a.Subscribe("api.*", "", func(m *broker.Msg) {
		msgs = append(msgs, got{string(m.Subject), string(m.Reply), string(m.Header), string(m.Data), m.Account.Name()})
		info = m.Client
	})
	if err != nil {
		t.Fatal(err)
	}
	c := pipe(t, b)
	c.hello(`CONNECT {"verbose":false,"headers":true,"no_responders":true,"name":"n","lang":"go","version":"1.2","user":"u"}` + "\r\n")
	c.send("SUB inbox.* 1\r\nHPUB api.x inbox.1 18 20\r\nNATS/1.0\r\nA: b\r\n\r\nhi\r\nPUB api.y 0\r\n\r\n")
	c.sync() // no 503: the internal subscription is interest
	want := []got{{"api.x", "inbox.1", "NATS/1.0\r\nA: b\r\n\r\n", "hi", "$G"}, {"api.y", "", "", "", "$G"}}
	if fmt.Sprint(msgs) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", msgs, want)
	}
	if info == nil || info.Name != "n" || info.Lang != "go" || info.Version != "1.2" || info.User != "u" || info.ID != c.info.ClientID ||
		info.Account != "$G" || info.Start.IsZero() {
		t.Errorf("client %+v", info)
	}
	if n := a.Publish("api.z", "r", nil, []byte("in")); n != 1 || info != nil {
		t.Errorf("receivers %d, client %v", n, info)
	}
	sub.Unsubscribe()
	sub.Unsubscribe()
	c.send("PUB api.x inbox.1 0\r\n\r\n")
	c.expect("HMSG inbox.1 1 37 37\r\nNATS/1.0 503\r\nNats-Subject: api.x\r\n\r\n\r\n")
	if len(msgs) != 3 {
		t.Errorf("%d messages", len(msgs))
	}
	if _, err := a.Subscribe("a..b", "", func(*broker.Msg) {}); err == nil {
		t.Errorf("an invalid filter was accepted")
	}
}

func TestAccountPublish(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	c := pipe(t, b).hello(quiet)
	old := pipe(t, b).hello("CONNECT {\"verbose\":false}\r\n")
	for _, c := range []*conn{c, old} {
		c.send("SUB foo.* 1\r\nSUB inbox 2\r\n")
		c.sync()
	}
	header := []byte("NATS/1.0\r\nA: b\r\n\r\n")
	if n := a.Publish("foo.bar", "r", header, []byte("hello")); n != 2 {
		t.Errorf("receivers %d", n)
	}
	c.expect("HMSG foo.bar 1 r 18 23\r\nNATS/1.0\r\nA: b\r\n\r\nhello\r\n")
	old.expect("MSG foo.bar 1 r 5\r\nhello\r\n")
	if n := a.PublishAs("inbox", "orders.new", "", nil, []byte("x")); n != 2 {
		t.Errorf("receivers %d", n)
	}
	c.expect("MSG orders.new 2 1\r\nx\r\n")
	old.expect("MSG orders.new 2 1\r\nx\r\n")
	if n := a.Publish("nobody", "", nil, nil); n != 0 {
		t.Errorf("receivers %d", n)
	}
	if n := b.Account("$SYS").Publish("inbox", "", nil, nil); n != 0 {
		t.Errorf("receivers in another account %d", n)
	}
	if !a.HasInterest("foo.x") || a.HasInterest("nobody") || b.Account("none") != nil {
		t.Errorf("wrong interest")
	}
	p := a.NewPublisher()
	for i := range 100 {
		if n := p.Publish(fmt.Sprintf("foo.%d", i), "", nil, []byte("x")); n != 2 {
			t.Errorf("receivers %d", n)
		}
	}
	if n := p.PublishAs("inbox", "end", "", nil, nil); n != 2 {
		t.Errorf("receivers %d", n)
	}
	p.Flush()
	for i := range 100 {
		c.expect(fmt.Sprintf("MSG foo.%d 1 1\r\nx\r\n", i))
	}
	c.expect("MSG end 2 0\r\n\r\n")
}

func TestAccountPublishFromCallback(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	for i := range 3 {
		if _, err := a.Subscribe(fmt.Sprintf("hop.%d", i), "", func(m *broker.Msg) {
			a.Publish(fmt.Sprintf("hop.%d", i+1), string(m.Reply), nil, append(m.Data[:len(m.Data):len(m.Data)], 'x'))
		}); err != nil {
			t.Fatal(err)
		}
	}
	c := pipe(t, b).hello(quiet)
	c.send("SUB hop.3 1\r\nPUB hop.0 r 1\r\na\r\n")
	c.expect("MSG hop.3 1 r 4\r\naxxx\r\n")
}

func TestAccountQueueSubscription(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	var got [3]int
	var subs []*broker.Sub
	for i := range got {
		s, err := a.Subscribe("job", "q", func(*broker.Msg) { got[i]++ })
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, s)
	}
	const n = 300
	for range n {
		if r := a.Publish("job", "", nil, nil); r != 1 {
			t.Fatalf("receivers %d", r)
		}
	}
	if sum := got[0] + got[1] + got[2]; sum != n || min(got[0], got[1], got[2]) < n/10 {
		t.Errorf("members got %v", got)
	}
	subs[0].Unsubscribe()
	subs[1].Unsubscribe()
	before := got[2]
	a.Publish("job", "", nil, nil)
	if got[2] != before+1 {
		t.Errorf("the last member got nothing")
	}
}

// TestAccountUniqueReplies is the pattern of asynchronous requests: each answered on a subject that
// is used once, from another goroutine.
func TestAccountUniqueReplies(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	replies := make(chan string, 10000)
	if _, err := a.Subscribe("stream", "", func(m *broker.Msg) { replies <- string(m.Reply) }); err != nil {
		t.Fatal(err)
	}
	const n = 10000
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			if r := a.Publish(<-replies, "", nil, []byte("{}")); r != 1 {
				t.Errorf("receivers %d", r)
			}
		}
	})
	c := dial(t, listen(t, b)).hello(quiet)
	c.send("SUB _INBOX.x.* 1\r\n")
	c.sync()
	wg.Go(func() {
		for i := range n {
			c.send(fmt.Sprintf("PUB stream _INBOX.x.%d 0\r\n\r\n", i))
		}
	})
	for i := range n {
		c.awaits(fmt.Sprintf("MSG _INBOX.x.%d 1 2\r\n{}\r\n", i))
	}
	wg.Wait()
}

func TestAccountWatchInterest(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	var told []bool
	cancel := a.WatchInterest("deliver.a", "", func(active bool) { told = append(told, active) })
	var group []bool
	cancelGroup := a.WatchInterest("deliver.a", "q", func(active bool) { group = append(group, active) })
	expect := func(step, want, wantGroup string) {
		t.Helper()
		if got := fmt.Sprint(told); got != want {
			t.Errorf("%s: told %s, want %s", step, got, want)
		}
		if got := fmt.Sprint(group); got != wantGroup {
			t.Errorf("%s: group told %s, want %s", step, got, wantGroup)
		}
		told, group = nil, nil
	}
	subscribe := func(filter, queue string) *broker.Sub {
		s, err := a.Subscribe(filter, queue, func(*broker.Msg) {})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	subscribe("deliver.b", "")
	expect("another subject", "[]", "[]")
	s1 := subscribe("deliver.a", "")
	expect("first", "[true]", "[]")
	s2 := subscribe("deliver.*", "q")
	expect("second", "[]", "[true]")
	s1.Unsubscribe()
	expect("one left", "[]", "[]")
	s2.Unsubscribe()
	expect("none left", "[false]", "[false]")
	c := pipe(t, b).hello(quiet)
	c.send("SUB > 1\r\n")
	c.sync()
	expect("client", "[true]", "[]")
	c.Close()
	eventually(t, "client is gone", func() bool { return !a.HasInterest("deliver.a") && a.Connections() == 0 })
	expect("client gone", "[false]", "[]")
	s := subscribe("deliver.a", "q")
	expect("again", "[true]", "[true]")
	cancel()
	cancel()
	cancelGroup()
	s.Unsubscribe()
	expect("cancelled", "[]", "[]")
	a.WatchInterest("deliver.b", "", func(active bool) { told = append(told, active) })
	expect("interest at the start", "[true]", "[]")
}

// TestAccountWatchInterestFromCallback changes the interest in the callback that tells of it.
func TestAccountWatchInterestFromCallback(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	subscribe := func() *broker.Sub {
		s, err := a.Subscribe("x", "", func(*broker.Msg) {})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var told []bool
	var second *broker.Sub
	var cancel func()
	cancel = a.WatchInterest("x", "", func(active bool) {
		switch told = append(told, active); len(told) {
		case 2:
			second = subscribe()
		case 3:
			second.Unsubscribe()
		case 4:
			cancel()
		}
	})
	subscribe().Unsubscribe()
	subscribe()
	if got := fmt.Sprint(told); got != "[true false true false]" {
		t.Errorf("told %s", got)
	}
}

// TestAccountWatchInterestConverges changes interest from many goroutines: what is told last must be
// true.
func TestAccountWatchInterestConverges(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	var calls, overlap atomic.Int32
	var last atomic.Bool
	a.WatchInterest("x", "", func(active bool) {
		if overlap.Add(1) != 1 {
			t.Errorf("calls overlap")
		}
		calls.Add(1)
		if last.Swap(active) == active {
			t.Errorf("told %v twice", active)
		}
		overlap.Add(-1)
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 500 {
				s, err := a.Subscribe([]string{"x", "*", ">"}[i%3], []string{"", "q"}[i%2], func(*broker.Msg) {})
				if err != nil {
					t.Error(err)
					return
				}
				s.Unsubscribe()
			}
		})
	}
	wg.Wait()
	if last.Load() || calls.Load() == 0 {
		t.Errorf("last told %v after %d calls", last.Load(), calls.Load())
	}
}

// TestBrokerConcurrentUse runs publishers, subscribers and internal users against each other; it is
// for the race detector.
func TestBrokerConcurrentUse(t *testing.T) {
	b := newBroker(t, broker.Config{})
	a := b.Account(broker.GlobalAccount)
	addr := listen(t, b)
	var wg sync.WaitGroup
	for g := range 3 {
		c := dial(t, addr).hello(quiet)
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			for {
				if c.line() == "PONG" {
					return
				}
			}
		})
		wg.Go(func() {
			for i := range 200 {
				c.send(fmt.Sprintf("SUB foo.* %d\r\nPUB foo.%d 2\r\nhi\r\nUNSUB %d 3\r\n", i, g, i))
			}
			c.send("PING\r\n")
			<-done
			c.Close()
		})
		wg.Go(func() {
			for range 200 {
				a.Publish("foo.x", "", nil, []byte("internal"))
				if s, err := a.Subscribe("foo.>", "q", func(*broker.Msg) {}); err == nil {
					s.Unsubscribe()
				}
				b.Traffic()
			}
		})
	}
	wg.Wait()
}
