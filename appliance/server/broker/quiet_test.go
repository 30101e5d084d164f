package broker_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/appliance/server/broker"
)

// cable is a TCP proxy that can be cut: nothing arrives then, nothing is lost, and nobody is told.
type cable struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu    sync.Mutex
	whole chan struct{} // closed while bytes get through
	conns []net.Conn
}

// newCable returns a cable to an address; its own is the listener's.
func newCable(t *testing.T, target string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l, target: target, whole: make(chan struct{})}
	close(c.whole)
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		c.heal()
		c.tear()
		c.wg.Wait()
	})
	return c
}

func (c *cable) address() string { return c.listener.Addr().String() }

func (c *cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.target)
		if err != nil {
			near.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, near, far)
		c.mu.Unlock()
		c.wg.Go(func() { c.carry(near, far) })
		c.wg.Go(func() { c.carry(far, near) })
	}
}

func (c *cable) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		whole := c.whole
		c.mu.Unlock()
		<-whole
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.whole:
		c.whole = make(chan struct{})
	default:
	}
}

func (c *cable) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.whole:
	default:
		close(c.whole)
	}
}

// tear ends all connections, and no more get through.
func (c *cable) tear() {
	c.listener.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, nc := range c.conns {
		nc.Close()
	}
}

// cabled are three servers: near and far at the ends of a cable, and other, which both reach.
type cabled struct {
	*cable
	near, far, other *member
}

func newCabled(t *testing.T) *cabled {
	t.Helper()
	c := &cabled{far: join(t, "far", storage(1, 1, nil))}
	c.cable = newCable(t, c.far.routes)
	c.near = join(t, "near", func(cfg *broker.Config) {
		storage(2, 1, nil)(cfg)
		cfg.Standing = broker.StandingRequests{Prefix: "pull.", Over: "OVER\r\n\r\n", Ended: "ended"}
	}, c.cable.address())
	meshed(t, c.near, c.far)
	c.other = join(t, "other", storage(3, 1, nil), c.near.routes, c.far.routes)
	meshed(t, c.near, c.far, c.other)
	return c
}

// quiet cuts the cable and waits until near has noticed.
func (c *cabled) quiet(t *testing.T) {
	t.Helper()
	c.cut()
	eventually(t, "a quiet route", func() bool { return c.near.QuietRoutes() == 1 })
}

// client connects to a server and subscribes; what it gets has the sid 1.
func subscriber(t *testing.T, m *member, filter string) *conn {
	t.Helper()
	c := dial(t, m.clients).hello(quiet)
	c.send("SUB " + filter + " 1\r\n")
	c.sync()
	return c
}

// TestQuietRouteHoldsRequests has a responder behind a cable that is cut. The request waits until somebody
// else subscribes, who gets it once; the first responder never does.
func TestQuietRouteHoldsRequests(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	first := subscriber(t, c.far, "orders.>")
	interested(t, c.near, "orders.1", true)
	c.quiet(t)
	client := subscriber(t, c.near, "inbox")
	client.send("PUB orders.1 inbox 3\r\none\r\nPUB orders.2 inbox 3\r\ntwo\r\n")
	client.sync()
	second := subscriber(t, c.other, "orders.>")
	second.awaits("MSG orders.1 1 inbox 3\r\none\r\nMSG orders.2 1 inbox 3\r\ntwo\r\n")
	// The next one overtakes nothing, and goes to the second alone too: the first is not heard yet.
	client.send("PUB orders.3 inbox 5\r\nthree\r\n")
	second.awaits("MSG orders.3 1 inbox 5\r\nthree\r\n")
	c.heal()
	eventually(t, "no quiet route", func() bool { return c.near.QuietRoutes() == 0 })
	client.send("PUB orders.4 inbox 4\r\nfour\r\n")
	second.awaits("MSG orders.4 1 inbox 4\r\nfour\r\n")
	// orders.3 had two receivers, of which one was not heard: it has waited for that one.
	first.awaits("MSG orders.3 1 inbox 5\r\nthree\r\nMSG orders.4 1 inbox 4\r\nfour\r\n")
}

// TestQuietRouteTakesLocalResponder is the same with a responder at the client's own server.
func TestQuietRouteTakesLocalResponder(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	subscriber(t, c.far, "orders.>")
	interested(t, c.near, "orders.1", true)
	c.quiet(t)
	client := subscriber(t, c.near, "inbox")
	client.send("PUB orders.1 inbox 3\r\none\r\n")
	client.sync()
	got := make(chan string, 10)
	sub, err := c.near.Account(broker.GlobalAccount).Subscribe("orders.*", "", func(m *broker.Msg) { got <- string(m.Data) })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	client.send("PUB orders.2 inbox 3\r\ntwo\r\n") // after the first
	for _, want := range []string{"one", "two"} {
		if text := <-got; text != want {
			t.Errorf("got %q, want %q", text, want)
		}
	}
}

// known waits until near knows what has been subscribed to so far elsewhere.
func (c *cabled) known(t *testing.T, subscribers ...*conn) {
	t.Helper()
	for i, s := range subscribers {
		last := fmt.Sprint("known.", i)
		s.send("SUB " + last + " last\r\n")
		interested(t, c.near, last, true)
	}
}

// TestQuietRouteLosesNothing has a cable that is cut for a while, as if the far server were slow: what is
// for it arrives later, all of it, in order, and other servers get theirs at once.
func TestQuietRouteLosesNothing(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	far, other := subscriber(t, c.far, "news.>"), subscriber(t, c.other, "news.>")
	client := dial(t, c.near.clients).hello(quiet)
	c.known(t, far, other)
	var want strings.Builder
	send := func(from, to int) {
		var text strings.Builder
		for i := from; i < to; i++ {
			reply := ""
			if i%3 == 0 {
				reply = "inbox "
			}
			fmt.Fprintf(&text, "PUB news.1 %s2\r\n%02d\r\n", reply, i)
			fmt.Fprintf(&want, "MSG news.1 1 %s2\r\n%02d\r\n", reply, i)
		}
		client.send(text.String())
		client.sync()
	}
	send(0, 10)
	c.cut()
	send(10, 20) // before it is noticed
	c.quiet(t)
	send(20, 40)
	other.awaits(want.String())
	before := want.Len()
	c.heal()
	send(40, 50)
	far.awaits(want.String())
	other.awaits(want.String()[before:])
}

// TestQuietRouteNoResponders tells the client in the end that nobody takes its request.
func TestQuietRouteNoResponders(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	far := subscriber(t, c.far, "orders.>")
	interested(t, c.near, "orders.1", true)
	c.quiet(t)
	client := subscriber(t, c.near, "inbox")
	begun := time.Now()
	client.send("PUB orders.1 inbox 3\r\none\r\n")
	client.awaits("HMSG inbox 1 40 40\r\nNATS/1.0 503\r\nNats-Subject: orders.1\r\n\r\n\r\n")
	if took := time.Since(begun); took < broker.HoldTime {
		t.Errorf("no responders after %s", took)
	}
	c.heal()
	eventually(t, "no quiet route", func() bool { return c.near.QuietRoutes() == 0 })
	client.send("PUB orders.2 inbox 3\r\ntwo\r\n")
	far.awaits("MSG orders.2 1 inbox 3\r\ntwo\r\n") // the first is over
}

// TestQuietRoutePassesQueuesOver has members of a queue group at both servers: those that are heard get all.
func TestQuietRoutePassesQueuesOver(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	far, other := dial(t, c.far.clients).hello(quiet), dial(t, c.other.clients).hello(quiet)
	far.send("SUB work q 1\r\n")
	other.send("SUB work q 1\r\n")
	c.known(t, far, other)
	client := dial(t, c.near.clients).hello(quiet)
	c.quiet(t)
	for range 50 {
		client.send("PUB work inbox 0\r\n\r\n")
		other.awaits("MSG work 1 inbox 0\r\n\r\n")
	}
}

// TestQuietRouteInSystemAccount counts no interest of a server that is not heard there, and everywhere else
// does.
func TestQuietRouteInSystemAccount(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	nobody := func(*broker.Msg) {}
	if _, err := c.far.SystemAccount().Subscribe("leader.7", "", nobody); err != nil {
		t.Fatal(err)
	}
	subscriber(t, c.far, "leader.7")
	changes := make(chan bool, 10)
	defer c.near.SystemAccount().WatchInterest("leader.7", "", func(active bool) { changes <- active })()
	expect := func(want bool) {
		t.Helper()
		if got := <-changes; got != want {
			t.Errorf("interest became %v, want %v", got, want)
		}
		if got := c.near.SystemAccount().HasInterest("leader.7"); got != want {
			t.Errorf("interest is %v, want %v", got, want)
		}
	}
	expect(true)
	interested(t, c.near, "leader.7", true)
	c.cut()
	expect(false)
	interested(t, c.near, "leader.7", true)
	c.heal()
	expect(true)
}

// TestLostServerHoldsRequests ends the connection with the server of a responder. The request waits until somebody else
// subscribes, or until it is clear that nobody does.
func TestLostServerHoldsRequests(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	subscriber(t, c.far, "orders.>")
	interested(t, c.near, "orders.1", true)
	client := subscriber(t, c.near, "inbox")
	client.send("PUB payments inbox 0\r\n\r\n")
	client.awaits("HMSG inbox 1 40 40\r\nNATS/1.0 503\r\nNats-Subject: payments\r\n\r\n\r\n") // nobody ever was there
	c.tear()
	interested(t, c.near, "orders.1", false)
	client.send("PUB orders.1 inbox 3\r\none\r\nPUB payments inbox 0\r\n\r\n")
	client.awaits("HMSG inbox 1 40 40\r\nNATS/1.0 503\r\nNats-Subject: payments\r\n\r\n\r\n")
	second := subscriber(t, c.other, "orders.*")
	second.awaits("MSG orders.1 1 inbox 3\r\none\r\n")
	second.send("UNSUB 1\r\n")
	second.sync()
	interested(t, c.near, "orders.1", false)
	client.send("PUB orders.2 inbox 3\r\ntwo\r\n")
	client.awaits("HMSG inbox 1 40 40\r\nNATS/1.0 503\r\nNats-Subject: orders.2\r\n\r\n\r\n")
}

// TestQuietRouteEnds holds what waited for a route that ends.
func TestQuietRouteEnds(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	subscriber(t, c.far, "orders.>")
	interested(t, c.near, "orders.1", true)
	c.quiet(t)
	client := subscriber(t, c.near, "inbox")
	client.send("PUB orders.1 inbox 3\r\none\r\nPUB orders.1 3\r\ntwo\r\n")
	client.sync()
	c.tear()
	eventually(t, "the end of the route", func() bool { return c.near.QuietRoutes() == 0 })
	second := subscriber(t, c.other, "orders.>")
	second.awaits("MSG orders.1 1 inbox 3\r\none\r\n")
	client.send("PUB orders.1 5\r\nthree\r\n")
	second.awaits("MSG orders.1 1 5\r\nthree\r\n") // the second wanted no answer: nobody else gets it
}

// TestStandingRequestsEnd has a client that waits for answers of a server that is not heard any more. When
// another one takes over, the client is told, once.
func TestStandingRequestsEnd(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*testing.T, *cabled){
		"quiet": func(t *testing.T, c *cabled) { c.quiet(t) },
		"lost": func(t *testing.T, c *cabled) {
			c.tear()
			interested(t, c.near, "pull.a", false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCabled(t)
			far := subscriber(t, c.far, "pull.a")
			interested(t, c.near, "pull.a", true)
			client := subscriber(t, c.near, "inbox.*")
			client.send("PUB pull.a inbox.1 0\r\n\r\nPUB pull.a inbox.1 0\r\n\r\nPUB pull.a inbox.2 0\r\n\r\n")
			far.awaits("MSG pull.a 1 inbox.1 0\r\n\r\nMSG pull.a 1 inbox.1 0\r\n\r\nMSG pull.a 1 inbox.2 0\r\n\r\n")
			lose(t, c)
			second := subscriber(t, c.other, "pull.a")
			over := map[string]bool{}
			for range 2 {
				line := client.line()
				client.awaits("OVER\r\n\r\n\r\n")
				over[line] = true
			}
			if !over["HMSG inbox.1 1 8 8"] || !over["HMSG inbox.2 1 8 8"] {
				t.Errorf("got %v", over)
			}
			client.send("PUB pull.a inbox.1 0\r\n\r\n")
			second.awaits("MSG pull.a 1 inbox.1 0\r\n\r\n")
			third := subscriber(t, c.near, "pull.a") // the second is there still
			client.send("PUB inbox.3 0\r\n\r\n")
			client.awaits("MSG inbox.3 1 0\r\n\r\n")
			third.sync()
		})
	}
}

// TestStandingRequestsAreRefused has a client ask on a subject where requests were taken before, and that is gone: it
// waits for who takes them next, until a server tells that nobody will.
func TestStandingRequestsAreRefused(t *testing.T) {
	t.Parallel()
	c := newCabled(t)
	far := subscriber(t, c.far, "pull.a")
	interested(t, c.near, "pull.a", true)
	client := subscriber(t, c.near, "inbox.*")
	client.send("PUB pull.a inbox.1 0\r\n\r\n")
	far.awaits("MSG pull.a 1 inbox.1 0\r\n\r\n")
	far.send("UNSUB 1\r\n")
	far.sync()
	interested(t, c.near, "pull.a", false)
	client.send("PUB pull.a inbox.2 0\r\n\r\n")
	client.sync() // no answer: it waits
	ended := func(subject string) {
		c.far.SystemAccount().Publish("ended", "", nil, fmt.Appendf(nil, `{"account":%q,"subject":%q}`, broker.GlobalAccount, subject))
	}
	ended("pull.b")
	ended("pull.a")
	client.awaits("HMSG inbox.2 1 38 38\r\nNATS/1.0 503\r\nNats-Subject: pull.a\r\n\r\n\r\n")
	client.send("PUB pull.a inbox.3 0\r\n\r\n")
	client.awaits("HMSG inbox.3 1 38 38\r\nNATS/1.0 503\r\nNats-Subject: pull.a\r\n\r\n\r\n")
}
