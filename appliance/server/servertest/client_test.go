package servertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"millrace/appliance/server/broker"
)

const patience = 10 * time.Second

func connect(t testing.TB, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func flush(t testing.TB, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

func TestClientRequestReply(t *testing.T) {
	_, url := StartBroker(t, broker.Config{})
	service, client := connect(t, url), connect(t, url)
	if _, err := service.QueueSubscribe("echo", "workers", func(m *nats.Msg) {
		r := nats.NewMsg(m.Reply)
		r.Header = m.Header
		r.Header.Add("Seen", "yes")
		r.Data = m.Data
		m.RespondMsg(r)
	}); err != nil {
		t.Fatal(err)
	}
	flush(t, service)
	for i := range 100 {
		m := nats.NewMsg("echo")
		m.Header.Set("N", fmt.Sprint(i))
		m.Data = []byte(fmt.Sprint("data ", i))
		r, err := client.RequestMsg(m, patience)
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Data) != string(m.Data) || r.Header.Get("N") != fmt.Sprint(i) || r.Header.Get("Seen") != "yes" {
			t.Fatalf("answer %d: %v %s", i, r.Header, r.Data)
		}
	}
	if _, err := client.Request("nobody", nil, patience); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("request to nobody: %v", err)
	}
}

func TestClientOrderAndCompleteness(t *testing.T) {
	_, url := StartBroker(t, broker.Config{})
	const n, publishers, subscribers = 20000, 2, 2
	var wg sync.WaitGroup
	for range subscribers {
		nc := connect(t, url)
		next := make([]int, publishers)
		done := make(chan struct{})
		total := 0
		sub, err := nc.Subscribe("order.*", func(m *nats.Msg) {
			var p, i int
			fmt.Sscanf(string(m.Data), "%d %d", &p, &i)
			if next[p] != i {
				t.Errorf("publisher %d: got %d, want %d", p, i, next[p])
			}
			next[p] = i + 1
			if total++; total == n*publishers {
				close(done)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		sub.SetPendingLimits(-1, -1)
		flush(t, nc)
		wg.Go(func() {
			select {
			case <-done:
			case <-time.After(6 * patience):
				t.Errorf("not all messages came")
			}
		})
	}
	for p := range publishers {
		nc := connect(t, url)
		wg.Go(func() {
			for i := range n {
				if err := nc.Publish(fmt.Sprint("order.", i%10), fmt.Appendf(nil, "%d %d", p, i)); err != nil {
					t.Error(err)
				}
			}
			flush(t, nc)
		})
	}
	wg.Wait()
}

func TestClientAuthentication(t *testing.T) {
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, _ := key.PublicKey()
	_, url := StartBroker(t, broker.Config{Accounts: []broker.AccountConfig{
		{Name: "A", Users: []broker.UserConfig{{User: "u", Pass: "p"}}},
		{Name: "B", Users: []broker.UserConfig{{Nkey: public}}},
	}})
	connect(t, url, nats.UserInfo("u", "p"))
	connect(t, url, nats.Nkey(public, key.Sign))
	for name, option := range map[string]nats.Option{"nothing": nats.Name("x"), "password": nats.UserInfo("u", "x"), "token": nats.Token("x")} {
		if _, err := nats.Connect(url, option); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
}

func TestClientPermissionErrors(t *testing.T) {
	_, url := StartBroker(t, broker.Config{Accounts: []broker.AccountConfig{{Name: "A", Users: []broker.UserConfig{{
		User: "u", Pass: "p", Permissions: &broker.Permissions{
			Publish: &broker.SubjectPermission{Allow: []string{"ok"}}, Subscribe: &broker.SubjectPermission{Deny: []string{"no"}}},
	}}}}})
	errs := make(chan error, 10)
	nc := connect(t, url, nats.UserInfo("u", "p"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { errs <- err }))
	nc.Publish("no", nil)
	nc.SubscribeSync("no")
	flush(t, nc)
	for range 2 {
		select {
		case err := <-errs:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("got %v", err)
			}
		case <-time.After(patience):
			t.Fatal("no error")
		}
	}
	if nc.Status() != nats.CONNECTED {
		t.Errorf("status %v", nc.Status())
	}
}

func TestClientLameDuck(t *testing.T) {
	b, url := StartBroker(t, broker.Config{})
	told, closed := make(chan struct{}), make(chan struct{})
	nc := connect(t, url, nats.LameDuckModeHandler(func(*nats.Conn) { close(told) }),
		nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	flush(t, nc)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer close(ended)
		b.LameDuck(ctx, time.Hour, time.Hour)
	}()
	for _, c := range []struct {
		what string
		ch   chan struct{}
	}{{"lame duck notice", told}, {"close", closed}, {"shutdown", ended}} {
		select {
		case <-c.ch:
		case <-time.After(patience):
			t.Fatalf("no %s", c.what)
		}
		cancel() // after the notice: closes at once
	}
}

func TestClientInProcess(t *testing.T) {
	b, _ := StartBroker(t, broker.Config{})
	nc := connect(t, "", nats.InProcessServer(b))
	sub, err := nc.SubscribeSync("foo")
	if err != nil {
		t.Fatal(err)
	}
	nc.Publish("foo", []byte("x"))
	if m, err := sub.NextMsg(patience); err != nil || string(m.Data) != "x" {
		t.Errorf("got %v, %v", m, err)
	}
	if rtt, err := nc.RTT(); err != nil || rtt <= 0 {
		t.Errorf("rtt %v, %v", rtt, err)
	}
}

func TestClientDrainAndAutoUnsubscribe(t *testing.T) {
	_, url := StartBroker(t, broker.Config{})
	nc, pub := connect(t, url), connect(t, url)
	sub, _ := nc.SubscribeSync("foo")
	sub.AutoUnsubscribe(3)
	flush(t, nc)
	for range 10 {
		pub.Publish("foo", nil)
	}
	flush(t, pub)
	for range 3 {
		if _, err := sub.NextMsg(patience); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sub.NextMsg(patience); !errors.Is(err, nats.ErrMaxMessages) && !errors.Is(err, nats.ErrBadSubscription) {
		t.Errorf("fourth message: %v", err)
	}
	got := make(chan struct{}, 1000)
	if _, err := nc.Subscribe("bar", func(*nats.Msg) { got <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	flush(t, nc)
	for range 1000 {
		pub.Publish("bar", nil)
	}
	flush(t, pub)
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	if err := nc.Drain(); err != nil {
		t.Fatal(err)
	}
	<-closed
	if len(got) != 1000 {
		t.Errorf("got %d messages before the end of drain", len(got))
	}
}
