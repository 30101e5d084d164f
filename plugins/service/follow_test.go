package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"millrace/plugins/service"
	"millrace/plugins/service/servicetest"
)

// links are the services of several nodes that ask each other.
type links struct {
	answer map[string]func([]byte) json.RawMessage
}

type link struct {
	*links
	name string
}

func (l link) Answer(fn func([]byte) json.RawMessage) (func(), error) {
	l.answer[l.name] = fn
	return func() {}, nil
}

func (l link) Ask(_ context.Context, question json.RawMessage) (all []json.RawMessage) {
	for name, fn := range l.answer {
		if name != l.name {
			all = append(all, fn(question))
		}
	}
	return all
}

// A binding runs on the node that leads its consumer, however often that changes. A node that loses the
// lead between publishing and settling has its messages processed again by the next: the outputs and the
// count are there once. An output that cannot be stored for a while costs no delivery.
func TestServiceFollowsTheLeader(t *testing.T) {
	m, wires := servicetest.NewMemory(), &links{map[string]func([]byte) json.RawMessage{}}
	m.Lead("a")
	changed := map[string]func(){}
	var spaces []*space
	for _, name := range []string{"b", "a"} { // a answers requests: it serves last
		s := &space{T: t, store: m, consumers: m.Node(name), bus: m.Bus(), request: m.Request, memory: m}
		s.config = service.Config{Peers: link{wires, name}, Node: name}
		svc, _ := s.open()
		changed[name] = svc.Changed
		spaces = append(spaces, s)
	}
	lead := func(name string) {
		m.Lead(name)
		for _, fn := range changed {
			fn()
		}
	}
	s := spaces[1]
	s.stream("ORDERS", "orders.>")
	s.stream("LOUD", "upper.>")
	s.bucket("state")
	s.push("upper-go")
	s.must(service.VerbBind, service.BindRequest{Plugin: "upper-go", Stream: "ORDERS", Publish: []string{"upper.>"},
		KV: map[string]string{"state": "rw"}}, nil)
	var want []string
	for round, name := range []string{"a", "b", "a", "b", "b", "a"} {
		other := map[string]string{"a": "b", "b": "a"}[name]
		lead(name)
		for i := range 5 {
			s.publish("orders.x", fmt.Sprint("m", round, "-", i))
			want = append(want, fmt.Sprint("M", round, "-", i))
			if i == 2 { // in the middle of what the leader does
				m.FailOnce("upper.orders.x", service.ErrUnavailable)
				lead(other)
				lead(name)
				lead(other)
			}
		}
		s.wait("outputs of "+other, func() bool { return len(s.stored("LOUD", ">")) >= len(want) })
		s.wait("the binding on "+other, func() bool {
			b := s.binding("upper-go")
			return b.Node == other && b.State == service.StateRunning
		})
	}
	if got := s.stored("LOUD", ">"); !slices.Equal(got, want) {
		t.Errorf("outputs %q, want %q", got, want)
	}
	s.wait("the count", func() bool {
		all := s.stored("KV_state", ">")
		return all[len(all)-1] == fmt.Sprint(len(want))
	})
}
