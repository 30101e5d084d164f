package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"millrace/appliance/server/broker"
)

// seen counts who gets what.
type seen struct {
	mu sync.Mutex
	by []string
}

func (s *seen) note(who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by = append(s.by, who)
}

func (s *seen) count(who string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, by := range s.by {
		if strings.HasPrefix(by, who) {
			n++
		}
	}
	return n
}

func (s *seen) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := strings.Join(s.by, " ")
	s.by = nil
	return by
}

// Each server gets a message, until the one where it was published says that it is settled. Who else subscribes gets
// it always, by whatever filter.
func TestSubscribeEach(t *testing.T) {
	a := join(t, "a", nil)
	b := join(t, "b", nil, a.routes)
	meshed(t, a, b)
	var got seen
	for _, m := range []*member{a, b} {
		if _, err := m.Account("$G").SubscribeEach("api.>", func(msg *broker.Msg) bool {
			got.note(fmt.Sprintf("%s:%t,%t", m.Name(), msg.Own, msg.Last))
			return string(msg.Data) == "mine"
		}); err != nil {
			t.Fatal(err)
		}
	}
	c, monitor := dial(t, a.clients).hello(quiet), dial(t, b.clients).hello(quiet)
	interested(t, a, "api.x", true)
	publish := func(text string) {
		c.send(text)
		eventually(t, "what a gets", func() bool { return got.count("a:") == strings.Count(text, "PUB") })
		c.send("PUB flush 0\r\n\r\n") // by the same route
		monitor.expect("MSG flush 9 0\r\n\r\n")
	}
	monitor.send("SUB flush 9\r\n")
	interested(t, a, "flush", true)
	for _, step := range []struct{ do, want string }{
		{"PUB api.x 2\r\nhi\r\n", "a:true,true b:false,false"},
		{"PUB api.x 4\r\nmine\r\n", "a:true,true"},
		{"PUB api.x 4\r\nmine\r\nPUB api.x 4\r\nmine\r\n", "a:true,false a:true,true"},
		{"PUB api.x 2\r\nhi\r\nPUB api.x 4\r\nmine\r\n", "a:true,false a:true,true b:false,false"},
	} {
		publish(step.do)
		if by := got.take(); by != step.want {
			t.Errorf("%q: %s, want %s", step.do, by, step.want)
		}
	}
	a.Account("$G").Publish("api.x", "", nil, []byte("mine"))
	if by := got.take(); by != "a:false,false" {
		t.Errorf("a publish from inside: %s", by)
	}

	monitor.send("SUB api.> 1\r\nSUB api.* 2\r\nSUB api.> q 3\r\nSUB known 4\r\n")
	interested(t, a, "known", true)
	c.send("PUB api.x 4\r\nmine\r\nPUB flush 0\r\n\r\n")
	var lines []string
	for line := ""; line != "MSG flush 9 0"; line = monitor.line() {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	if text := strings.Join(lines, " "); text != " MSG api.x 1 4 MSG api.x 2 4 MSG api.x 3 4 mine mine mine" {
		t.Errorf("a monitor gets %q", text)
	}
	if by := got.take(); by != "a:true,false" {
		t.Errorf("with a monitor: %s", by)
	}
}
