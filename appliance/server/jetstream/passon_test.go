package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/membership"
	"millrace/appliance/server/jetstream/stream"
)

// keep has the leader of the stream, node 0, hand over, and publishes what it then keeps.
func (r *ring) keep(bodies ...string) {
	r.Helper()
	var quiet sync.WaitGroup
	quiet.Go(func() { r.nodes[0].stream.quiesce(r.nodes[0].engine.ctx) })
	synctest.Wait()
	r.send(bodies...)
	quiet.Wait()
}

// send publishes with a reply subject of its own each, in.BODY.
func (r *ring) send(bodies ...string) {
	for _, b := range bodies {
		r.space.Publish("S.a", "in."+b, nil, []byte(b))
	}
}

// bodies returns what a node has stored, in order.
func (n *ringNode) bodies() string {
	var list []string
	s := n.stream
	s.mu.RLock()
	_, last := s.machine.Bounds()
	s.mu.RUnlock()
	for seq := uint64(1); seq <= last; seq++ {
		m, _, err := s.load(seq, nil)
		if err != nil {
			list = append(list, err.Error())
			continue
		}
		list = append(list, string(m.Data))
	}
	return strings.Join(list, " ")
}

// told returns the answers to publishes, in short, in the order in which they came.
func told(in *letters) string {
	var list []string
	for _, l := range in.take() {
		line, _, _ := strings.Cut(l.header, "\r\n")
		if _, seq, ok := strings.Cut(l.data, `"seq":`); ok {
			line = strings.Trim(seq, "}")
		}
		list = append(list, line)
	}
	return strings.Join(list, ", ")
}

func (r *ring) wantPassed(in *letters, node int, bodies, answers string) {
	r.Helper()
	if got := r.nodes[node].bodies(); got != bodies {
		r.Errorf("stored %q, want %q", got, bodies)
	}
	if got := told(in); got != answers {
		r.Errorf("told %q, want %q", got, answers)
	}
	if n := r.nodes[0]; n.stream.keeps() || n.engine.sending.Load() != 0 || r.system.HasInterest(passSubject(ringStream)) {
		r.Error("it seems to be under way still")
	}
}

// What comes to the old leader before others know of the next one goes on to that, and what came to both is stored once.
// What the next leader gets itself comes after what was before.
func TestStreamPassesPublishesOn(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		in := r.listen("in.*")
		r.keep("kept1", "kept2")
		r.elect(ringStream, -1, 0)
		r.send("late1", "late2")
		r.elect(ringStream, 1, 0)
		r.send("both1", "both2")
		r.after(passEvery * 2)
		r.send("both3")
		r.after(time.Second)
		r.send("last")
		r.after(time.Second)
		r.wantPassed(in, 1, "kept1 kept2 late1 late2 both1 both2 both3 last", "1, 2, 3, 4, 5, 6, 7, 8")
		if r.nodes[0].stream.subscribed != nil {
			t.Error("the old leader takes publishes still")
		}
	})
}

// A copy that is passed on may come before the other one.
func TestPassedPublishIsStoredOnce(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		in := r.listen("in.*")
		r.elect(ringStream, 1, 0)
		s := r.nodes[1].stream
		m := newDelayed(&Msg{Subject: []byte("S.a"), Reply: []byte("in.x"), Data: []byte("x")})
		call := leaderCall{Term: s.term - 1, Passed: []passed{{Data: m.data, Ends: [3]int{m.subject, m.reply, m.header}}}}
		for range 2 { // of the same content: two publishes
			if err := s.takePassed(&call); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		r.send("x", "x", "x")
		r.after(time.Second)
		r.wantPassed(in, 1, "x x x", "1, 2, 3")
		call.Passed[0].Ends[1] = 1 << 30
		if err := s.takePassed(&call); err == nil {
			t.Error("a publish that cannot be read was taken")
		}
	})
}

// Of what may be stored already only the leader of the very next term takes what is passed on: another one before it may
// have stored that. What is sure to be nowhere any leader takes. With none, it and what has an id is to be repeated.
func TestOnlyNextLeaderTakesPublishes(t *testing.T) {
	for _, led := range []bool{true, false} {
		t.Run(fmt.Sprint(led), func(t *testing.T) {
			inRing(t, api.LimitsPolicy, func(r *ring) {
				in := r.listen("in.*")
				r.keep("sure")
				r.send("unsure")
				r.space.Publish("S.a", "in.id", header(stream.HeaderMsgID, "id"), nil)
				r.elect(ringStream, -1, 0)
				synctest.Wait()
				if led { // both before this node has heard of the first
					r.elect(ringStream, 1, 0)
					r.elect(ringStream, 2, 0)
				}
				r.after(2 * electionWait)
				if led {
					r.wantPassed(in, 2, "sure", "1, NATS/1.0 503")
					return
				}
				r.wantPassed(in, 2, "", "NATS/1.0 503, NATS/1.0 503")
			})
		})
	}
}

// A new leader that got more than it can remember takes nothing that may have come already.
func TestPassedPublishIsNotTakenInDoubt(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.elect(ringStream, 1, 0)
		s := r.nodes[1].stream
		for i := range firstArrivals + 1 {
			s.mu.Lock()
			s.repeatsLocked(&Msg{Subject: []byte("S.a"), Reply: fmt.Append(nil, i)})
			s.mu.Unlock()
		}
		in := r.listen("in.*")
		var list []passed
		for _, reply := range []string{"in.a", "in.b"} {
			m := newDelayed(&Msg{Subject: []byte("S.a"), Reply: []byte(reply), Data: []byte(reply)})
			list = append(list, passed{m.data, [3]int{m.subject, m.reply, m.header}, reply == "in.b"})
		}
		if err := s.takePassed(&leaderCall{Term: s.term - 1, Passed: list}); err != nil {
			t.Fatal(err)
		}
		r.after(time.Second)
		r.wantPassed(in, 1, "in.b", "1")
	})
}

// Who has just started is handed over to only if there is nobody else.
func TestHeirHasSettled(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		e := r.nodes[0].engine
		state := membership.State{Self: 1 << 20, Commit: 9, Voters: []uint64{1 << 20, 2 << 20, 3 << 20}}
		for _, id := range state.Voters[1:] {
			state.Peers = append(state.Peers, membership.Peer{Replica: id, Match: 9, Active: true})
		}
		for _, want := range []uint64{2 << 20, 3 << 20} {
			if to, err := e.heir(state, nil); to != want || err != nil {
				t.Errorf("heir %x, %v; want %x", to, err, want)
			}
			if _, err := r.system.Subscribe(settledSubject(r.nodes[2].engine.cfg.Node), "", func(Msg) {}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Who does not know yet that it leads no more says nothing of what is passed on: the next leader takes it.
func TestOldLeaderRefusesNoPassedPublish(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.elect(ringStream, 1, 0)
		s := r.nodes[1].stream
		for after, want := range map[uint64]*api.Error{s.term - 2: api.ErrClusterNotLeader, s.term - 1: nil, s.term: errSilent, s.term + 1: errSilent} {
			m := newDelayed(&Msg{Subject: []byte("S.a"), Reply: fmt.Append(nil, after)})
			call := leaderCall{Term: after, Passed: []passed{{Data: m.data, Ends: [3]int{m.subject, m.reply, m.header}}}}
			if err := s.takePassed(&call); err != want {
				t.Errorf("passed on after term %d in term %d: %v, want %v", after, s.term, err, want)
			}
		}
		if err := r.nodes[2].stream.takePassed(&leaderCall{Term: s.term - 1}); err != errSilent {
			t.Errorf("who does not lead: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := r.nodes[0].engine.calls.call(ctx, leaderSubject(ringStream), leaderCall{Kind: callPublishes, Term: s.term}, nil)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an answer: %v", err)
		}
	})
}

// A replica that leaves its node after it handed over passes on what comes to it for a moment yet.
func TestReplicaThatLeavesPassesPublishesOn(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		in := r.listen("in.*")
		r.keep("kept")
		r.elect(ringStream, -1, 0)
		synctest.Wait()
		s := r.nodes[0].stream
		s.close()
		r.send("late")
		r.elect(ringStream, 1, 0)
		r.after(time.Second)
		r.wantPassed(in, 1, "kept late", "1, 2")
		if s.subscribed != nil {
			t.Error("it takes publishes still")
		}
	})
}
