package jetstream

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// depose has another node lead a group, and the one that did so far does not know it yet.
func (r *ring) depose(id uint64, leader int) {
	r.Helper()
	g := r.groups[id]
	g.mu.Lock()
	old := g.leader
	g.term++
	g.leader, g.pending = g.replicas[leader], nil
	term, m := g.term, g.leader.machine
	old.cut = true
	g.mu.Unlock()
	m.Lead(term, true)
	synctest.Wait()
}

// A leader that does not know that it is one no more says nothing of what the next one decides: it would refuse
// what that one stores, by what it holds itself.
func TestDeposedLeaderRefusesNothing(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.publish(2)
		r.depose(ringStream, 1)
		r.publish(1)
		if r.nodes[0].stored() != "[1 2]" || r.nodes[1].stored() != "[1 2 3]" || !r.nodes[0].stream.leads() {
			r.Fatalf("stored %s and %s", r.nodes[0].stored(), r.nodes[1].stored())
		}
		in := r.listen("in")
		for _, h := range []string{"Nats-Expected-Last-Sequence: 3", "Nats-Expected-Last-Subject-Sequence: 4"} {
			r.space.Publish("S.a", "in", []byte("NATS/1.0\r\n"+h+"\r\n\r\n"), nil)
			synctest.Wait()
			got := in.take()
			if len(got) != 1 || !strings.HasPrefix(got[0].data, `{"stream":"S","seq":`) {
				r.Errorf("%s: answers %q, want one ack", h, got)
			}
		}
		r.groups[ringStream].replicas[0].machine.Lead(1, false)
		synctest.Wait()
	})
}

// Nor does it answer by what it holds.
func TestDeposedLeaderAnswersNothingOld(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 0)
		r.publish(2)
		ask := func(call api.Call, body string, serve func(*request) (any, *api.Error)) *api.Error {
			call.Stream, call.Consumer = "S", "C"
			_, err := serve(&request{Call: call, account: r.nodes[0].engine.accounts["A"], body: []byte(body)})
			return err
		}
		for _, deposed := range []bool{false, true} {
			if deposed {
				r.depose(ringStream, 1)
				r.depose(ringConsumer, 1)
				r.publish(1)
			}
			for name, err := range map[string]*api.Error{
				"info":          ask(api.Call{}, "", (*request).streamInfo),
				"get":           ask(api.Call{}, `{"seq":2}`, (*request).msgGet),
				"delete":        ask(api.Call{}, `{"seq":3}`, (*request).msgDelete),
				"consumer info": ask(api.Call{}, "", (*request).consumerInfo),
				"consumers":     ask(api.Call{}, "", (*request).consumerNames),
				"consumer list": ask(api.Call{}, "", (*request).consumerList),
			} {
				if old := err == nil || err.ErrCode != api.ErrClusterNotAvail.ErrCode; old != !deposed {
					r.Errorf("%s: %v, deposed %t", name, err, deposed)
				}
			}
		}
		if _, err := (&request{Call: api.Call{Stream: "S", Consumer: "new"}, account: r.nodes[0].engine.accounts["A"]}).consumerInfo(); err == nil ||
			err.ErrCode != api.ErrClusterNotAvail.ErrCode {
			r.Errorf("a consumer that another node may have: %v", err)
		}
		for _, id := range []uint64{ringStream, ringConsumer} {
			r.groups[id].replicas[0].machine.Lead(1, false)
		}
		synctest.Wait()
	})
}

// Who leads the meta group no more, and does not know it, tells nothing of the catalogue, and not that there is no such
// stream.
func TestDeposedMetaLeaderTellsNothingOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newDisk())
		defer s.engine.Close()
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		for _, deposed := range []bool{false, true} {
			var err *api.Error
			if deposed {
				s.disk.mu.Lock()
				s.disk.lease, err = ErrNotLeader, api.ErrClusterNotAvail
				s.disk.mu.Unlock()
			}
			s.call("STREAM.NAMES", nil, err)
			s.call("STREAM.LIST", nil, err)
			s.call("INFO", nil, err)
			if !deposed {
				err = api.ErrStreamNotFound
			}
			s.call("STREAM.INFO.T", nil, err)
			s.call("STREAM.PURGE.T", nil, err)
		}
	})
}

// Where a replica fails, what it leads goes to one that has not.
func TestFailedReplicaLeadsNoMore(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 0)
		r.publish(2)
		r.nodes[0].stream.damaged(errors.New("test"))
		r.after(time.Second)
		for _, id := range []uint64{ringStream, ringConsumer} {
			if leader, _ := r.groups[id].replicas[0].Leader(); leader == 1 {
				r.Errorf("group %d is still led where it has failed", id)
			}
		}
		in := r.listen("in")
		r.space.Publish("S.a", "in", nil, nil)
		synctest.Wait()
		if got := in.take(); len(got) != 1 || got[0].data != `{"stream":"S","seq":3}` {
			r.Errorf("answers %q", got)
		}
		r.pull("in", 3)
		if s := seqs(in.take()); s != "1 2 3" {
			r.Errorf("got %s", s)
		}
		r.elect(ringStream, 0, 0)
		r.after(time.Second)
		if leader, _ := r.groups[ringStream].replicas[0].Leader(); leader == 1 {
			r.Error("it leads again")
		}
	})
}

// A consumer may have begun again under another leader: who does not know that confirms no acknowledgement that it
// took once.
func TestDeposedLeaderConfirmsNoAckAgain(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 0)
		in, ok := r.listen("in"), r.listen("ok")
		r.publish(1)
		r.pull("in", 1)
		got := in.take()
		for range 2 {
			r.ack(got[0], "ok")
			r.after(time.Second)
			if n := len(ok.take()); n != 1 {
				r.Errorf("%d confirmations, want 1", n)
			}
		}
		g := r.groups[ringConsumer]
		r.held(ringConsumer, true)
		r.depose(ringConsumer, 1)
		r.ack(got[0], "ok")
		r.after(time.Second)
		if n := len(ok.take()); n != 0 {
			r.Errorf("%d confirmations without a commit", n)
		}
		g.replicas[0].machine.Lead(1, false)
		synctest.Wait()
	})
}
