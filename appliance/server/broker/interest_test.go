package broker

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// telling tests a route in fake time. told returns what has been written and when, counted from the start.
func telling(t *testing.T, test func(r *route, batch func() *flushList, told func() []string)) {
	synctest.Test(t, func(t *testing.T) {
		b := &Broker{}
		b.cfg = b.cfg.withDefaults()
		near, far := net.Pipe()
		r := &route{mesh: &mesh{}}
		r.conn.init(b, near)
		var wg sync.WaitGroup
		wg.Go(r.writeLoop)
		var mu sync.Mutex
		var writes []string
		start := time.Now()
		wg.Go(func() {
			buf := make([]byte, 1<<10)
			for {
				n, err := far.Read(buf)
				if err != nil {
					if err != io.EOF {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				writes = append(writes, time.Since(start).String()+" "+string(buf[:n]))
				mu.Unlock()
			}
		})
		test(r, func() *flushList { return &flushList{} }, func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(writes)
		})
		r.abort(closedShutdown)
		wg.Wait()
	})
}

// A client's first subscription is told at once. Those that follow at once go together, and so do changes that nobody
// waits for; what is sent to the server takes them along.
func TestRouteTellsInterestInCompany(t *testing.T) {
	telling(t, func(r *route, batch func() *flushList, told func() []string) {
		tell := func(line string, soon bool) {
			f := batch()
			if soon {
				r.tell([]byte(line), haste{soon: true})
			} else {
				r.tell([]byte(line), haste{batch: f})
			}
			f.flush()
		}
		want := func(want ...string) {
			t.Helper()
			if got := told(); !slices.Equal(got, want) {
				t.Fatalf("told %q, want %q", got, want)
			}
		}
		<-time.After(time.Second)
		tell("a ", false)
		want("1s a ")
		tell("b ", false)
		<-time.After(2 * time.Millisecond)
		tell("c ", false)
		tell("d ", true)
		want("1s a ")
		<-time.After(interestDelay)
		want("1s a ", "1.01s b c d ")
		tell("e ", false) // the last ones have just gone
		want("1s a ", "1.01s b c d ")
		r.send([]byte("x "))
		want("1s a ", "1.01s b c d ", "1.012s e x ")
		<-time.After(time.Second)
		tell("f ", true)
		want("1s a ", "1.01s b c d ", "1.012s e x ")
		<-time.After(interestDelay)
		want("1s a ", "1.01s b c d ", "1.012s e x ", "2.022s f ")
		<-time.After(interestDelay)
		tell("g ", true)
		tell("h ", false) // does not wait for what waits
		want("1s a ", "1.01s b c d ", "1.012s e x ", "2.022s f ", "2.032s g h ")
		<-time.After(interestDelay)
		want("1s a ", "1.01s b c d ", "1.012s e x ", "2.022s f ", "2.032s g h ")
		if n := r.mesh.late.n.Load(); n != 0 {
			t.Errorf("%d routes wait", n)
		}
	})
}

// A client that has its PONG knows that its subscriptions are sent.
func TestPingSendsInterest(t *testing.T) {
	telling(t, func(r *route, batch func() *flushList, told func() []string) {
		r.b.mesh = r.mesh
		a := &Account{broker: r.b}
		a.interest.routes = []*route{r}
		f := batch()
		a.hasten(f)
		if len(f.conns) != 0 {
			t.Error("a route is written to that has nothing")
		}
		r.tell([]byte("a "), haste{soon: true})
		a.hasten(f)
		f.flush()
		if got := told(); !slices.Equal(got, []string{"0s a "}) {
			t.Errorf("told %q", got)
		}
		<-time.After(interestDelay)
	})
}
