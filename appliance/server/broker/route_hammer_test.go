package broker_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"

	"millrace/appliance/server/broker"
)

// cutter passes connections on to a target and cuts them.
type cutter struct {
	net.Listener
	target string

	mu    sync.Mutex
	conns []net.Conn
}

func newCutter(t *testing.T, target string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, target: target}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			c.mu.Lock()
			c.conns = append(c.conns, in, out)
			c.mu.Unlock()
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					io.Copy(way[0], way[1])
					way[0].Close()
					way[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.cut()
		wg.Wait()
	})
	return c
}

// cut ends all connections.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, nc := range c.conns {
		nc.Close()
	}
	c.conns = nil
}

// TestRouteHammer subscribes and unsubscribes on three servers at once, while routes are cut and a
// fourth server comes and goes. Afterwards every server's messages reach what a model says: every plain
// subscription once, one member of every queue group.
func TestRouteHammer(t *testing.T) {
	const workers, rounds, subjects = 3, 300, 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	a := join(t, "a", nil)
	cut := newCutter(t, a.routes)
	b := join(t, "b", nil, cut.Addr().String())
	c := join(t, "c", nil, cut.Addr().String(), b.routes)
	members := []*member{a, b, c}
	meshed(t, members...)

	type sub struct {
		subject, queue string
		sub            *broker.Sub
	}
	var mu sync.Mutex
	got := map[string]int{} // "subject queue id" or "subject queue" -> messages
	var alive []sub
	plain := map[string]int{}
	groups := map[string]bool{}
	var wg sync.WaitGroup
	for i, m := range members {
		for w := range workers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(i*workers+w)))
				var mine []sub
				for round := range rounds {
					if len(mine) > 0 && rng.IntN(2) == 0 {
						n := rng.IntN(len(mine))
						mine[n].sub.Unsubscribe()
						mine = slices.Delete(mine, n, n+1)
						continue
					}
					s := sub{subject: "s." + strconv.Itoa(rng.IntN(subjects)), queue: []string{"", "q", "p"}[rng.IntN(3)]}
					key := s.subject + " " + s.queue
					if s.queue == "" {
						key = fmt.Sprintf("%s %s.%d.%d", key, m.Name(), w, round)
					}
					var err error
					if s.sub, err = m.Account("$G").Subscribe(s.subject, s.queue, func(msg *broker.Msg) {
						mu.Lock()
						defer mu.Unlock()
						got[key]++
					}); err != nil {
						t.Error(err)
					}
					mine = append(mine, s)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, s := range mine {
					if alive = append(alive, s); s.queue == "" {
						plain[s.subject]++
					} else {
						groups[s.subject+" "+s.queue] = true
					}
				}
			})
		}
	}
	for range 3 {
		d := join(t, "d", nil, b.routes)
		eventually(t, "d", func() bool { return d.Routez().NumRoutes > 0 })
		cut.cut()
		d.Shutdown()
	}
	wg.Wait()
	meshed(t, members...)
	for _, m := range members {
		if _, err := m.Account("$G").Subscribe("done."+m.Name(), "", func(*broker.Msg) {}); err != nil {
			t.Fatal(err)
		}
		for _, other := range members {
			// Interest travels in order: all that m had before is known too.
			interested(t, other, "done."+m.Name(), true)
		}
	}

	for _, m := range members {
		mu.Lock()
		clear(got)
		mu.Unlock()
		want := len(groups)
		for i := range subjects {
			subject := "s." + strconv.Itoa(i)
			want += plain[subject]
			has := plain[subject] > 0 || groups[subject+" q"] || groups[subject+" p"]
			if n := m.Account("$G").Publish(subject, "", nil, nil); (n > 0) != has {
				t.Errorf("%s published %s to %d receivers, want some: %v", m.Name(), subject, n, has)
			}
		}
		total := func() int {
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for _, k := range got {
				n += k
			}
			return n
		}
		eventually(t, fmt.Sprintf("%d messages of %s", want, m.Name()), func() bool { return total() >= want })
		// What is still on its way would come before this.
		flushed := make(chan bool, len(members))
		for _, other := range members {
			if other == m {
				continue
			}
			s, err := other.Account("$G").Subscribe("flush."+m.Name()+other.Name(), "", func(*broker.Msg) { flushed <- true })
			if err != nil {
				t.Fatal(err)
			}
			interested(t, m, "flush."+m.Name()+other.Name(), true)
			m.Account("$G").Publish("flush."+m.Name()+other.Name(), "", nil, nil)
			<-flushed
			s.Unsubscribe()
		}
		if n := total(); n != want {
			t.Errorf("%s: %d messages, want %d", m.Name(), n, want)
		}
		mu.Lock()
		for key, n := range got {
			if n != 1 {
				t.Errorf("%s: %d messages for %q", m.Name(), n, key)
			}
		}
		mu.Unlock()
	}
	for _, s := range alive {
		s.sub.Unsubscribe()
	}
	for _, m := range members {
		for i := range subjects {
			interested(t, m, "s."+strconv.Itoa(i), false)
		}
	}
}
