package jetstream

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
	"millrace/appliance/server/jetstream/meta"
)

// An acknowledgement is confirmed, and its message removed from an interest stream, after the commit; the
// leader of the stream goes by its own replica of the consumer.
func TestConsumerSettlesAfterCommit(t *testing.T) {
	inRing(t, api.InterestPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 1)
		in, ok := r.listen("in"), r.listen("ok")
		r.publish(3)
		r.pull("in", 3)
		got := in.take()
		if seqs(got) != "1 2 3" {
			r.Fatalf("got %s", seqs(got))
		}
		r.after(time.Second)
		r.held(ringConsumer, true)
		r.ack(got[0], "ok")
		r.ack(got[2], "ok")
		r.after(time.Second)
		if n := len(ok.take()); n != 0 || r.nodes[0].stored() != "[1 2 3]" {
			r.Fatalf("%d confirmations before the commit, stored %s", n, r.nodes[0].stored())
		}
		r.cut(ringConsumer, 0, true) // where the stream is led
		r.held(ringConsumer, false)
		r.after(time.Second)
		if n := len(ok.take()); n != 2 {
			r.Errorf("%d confirmations after the commit, want 2", n)
		}
		if s := r.nodes[0].stored(); s != "[1 2 3]" {
			r.Errorf("stored %s, and the leader of the stream does not know of any acknowledgement", s)
		}
		r.cut(ringConsumer, 0, false)
		r.after(time.Second)
		for _, n := range r.nodes {
			if n.stored() != "[2]" {
				r.Errorf("node %d holds %s, want 2", n.number, n.stored())
			}
		}
	})
}

// A replica that gets a state in place of entries lets the stream look for what was settled meanwhile.
func TestConsumerRestoreSettles(t *testing.T) {
	inRing(t, api.WorkQueuePolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 1)
		in := r.listen("in")
		r.publish(4)
		r.cut(ringConsumer, 0, true)
		r.pull("in", 3)
		for _, m := range in.take()[:2] {
			r.ack(m, "")
		}
		r.after(time.Second)
		if s := r.nodes[0].stored(); s != "[1 2 3 4]" {
			r.Fatalf("stored %s", s)
		}
		r.restore(ringConsumer, 0, 2)
		r.after(time.Second)
		for _, n := range r.nodes {
			if n.stored() != "[3 4]" {
				r.Errorf("node %d holds %s, want 3 and 4", n.number, n.stored())
			}
			if !bytes.Equal(n.state(), r.nodes[1].state()) {
				r.Errorf("node %d has another state", n.number)
			}
		}
	})
}

// Whoever leads the stream next removes what was settled before.
func TestConsumerSettledIsFoundByTheNextLeaderOfTheStream(t *testing.T) {
	inRing(t, api.WorkQueuePolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 1)
		in := r.listen("in")
		r.publish(2)
		r.pull("in", 2)
		r.elect(ringStream, -1, 0)
		r.ack(in.take()[0], "")
		r.after(time.Second)
		if s := r.nodes[2].stored(); s != "[1 2]" {
			r.Fatalf("stored %s", s)
		}
		r.elect(ringStream, 2, 0)
		r.after(time.Second)
		if s := r.nodes[0].stored(); s != "[2]" {
			r.Errorf("stored %s, want 2", s)
		}
	})
}

// TestConsumerLeaderChanges moves the leadership about at random moments, with entries in flight of which
// some survive: what was confirmed never comes again, nothing is left out, replicas agree to the byte.
func TestConsumerLeaderChanges(t *testing.T) {
	const messages = 30
	for seed := range uint64(15) {
		inRing(t, api.LimitsPolicy, func(r *ring) {
			rng := rand.New(rand.NewPCG(seed, 5))
			r.consumer(api.ConsumerConfig{AckWait: 2 * time.Second}, 1)
			in := r.listen("in")
			r.publish(messages)
			r.held(ringConsumer, true)
			group := r.groups[ringConsumer]
			confirmed, open, acks := map[string]bool{}, map[*letters]string{}, 0
			collect := func() {
				for ok, seq := range open {
					if len(ok.take()) > 0 {
						confirmed[seq] = true
						delete(open, ok)
					}
				}
			}
			floor := func() uint64 {
				c := r.nodes[0].entry()
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.committed.Floor().Stream
			}
			for round := 0; floor() < messages; round++ {
				if round > 1000 {
					r.Fatalf("seed %d: floor %d after %d rounds", seed, floor(), round)
				}
				r.pull("in", 1+rng.IntN(5))
				for _, m := range in.take() {
					if m.reply == "" {
						continue
					}
					if confirmed[m.seq()] {
						r.Fatalf("seed %d: message %s comes again after its acknowledgement was confirmed", seed, m.seq())
					}
					if rng.IntN(4) > 0 {
						acks++
						reply := fmt.Sprint("ok", acks)
						open[r.listen(reply)] = m.seq()
						r.ack(m, reply)
					}
				}
				r.after(time.Duration(rng.IntN(100)) * time.Millisecond)
				group.commit(rng.IntN(4))
				synctest.Wait()
				collect()
				if rng.IntN(5) == 0 {
					r.elect(ringConsumer, rng.IntN(3), rng.IntN(4))
					collect()
				}
			}
			r.held(ringConsumer, false)
			for _, n := range r.nodes {
				if !bytes.Equal(n.state(), r.nodes[0].state()) {
					r.Errorf("seed %d: node %d has another state than node 0", seed, n.number)
				}
			}
			if len(confirmed) == 0 {
				r.Errorf("seed %d: nothing was confirmed", seed)
			}
		})
	}
}

// Nobody is told of a new consumer before its place in the stream is committed.
func TestConsumerIsAnnouncedAfterItsPlaceIsCommitted(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, -1)
		r.held(ringConsumer, true)
		r.elect(ringConsumer, 1, 0)
		r.after(time.Second)
		e := r.nodes[1].entry()
		if e.leads() || r.system.HasInterest(leaderSubject(ringConsumer)) {
			r.Error("it is announced")
		}
		r.held(ringConsumer, false)
		if !e.leads() || !r.system.HasInterest(leaderSubject(ringConsumer)) {
			r.Error("it is not announced")
		}
	})
}

// Leadership may come and go before anything follows it; in the end what runs is what the last word says.
func TestConsumerLeadFlips(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 1)
		in := r.listen("in")
		r.publish(2)
		r.pull("in", 9)
		if s := seqs(in.take()); s != "1 2" {
			r.Fatalf("got %s", s)
		}
		r.after(time.Second)
		group := r.groups[ringConsumer]
		m := group.replicas[1].machine
		m.Lead(1, false)
		for term := uint64(2); term < 9; term++ {
			m.Lead(term, true)
			m.Lead(term, false)
		}
		group.mu.Lock()
		group.leader, group.term = nil, 9
		group.mu.Unlock()
		synctest.Wait()
		if s := seqs(in.take()); s != "409 Leadership Change" {
			r.Errorf("told %q", s)
		}
		e := r.nodes[1].entry()
		if e.leads() || e.led.Load() != nil || r.space.HasInterest("$JS.API.CONSUMER.MSG.NEXT.S.C") ||
			r.system.HasInterest(leaderSubject(ringConsumer)) {
			r.Error("it is still led")
		}
		group.mu.Lock()
		group.leader, group.term = group.replicas[1], 10
		group.mu.Unlock()
		m.Lead(9, true)
		m.Lead(9, false)
		m.Lead(10, true)
		synctest.Wait()
		if !e.leads() || !r.system.HasInterest(leaderSubject(ringConsumer)) || e.running.term != 10 {
			r.Fatal("it is not led")
		}
		r.publish(1)
		r.pull("in", 9)
		if s := seqs(in.take()); s != "3" {
			r.Errorf("got %s", s)
		}
		r.after(40 * time.Second)
		if s := seqs(in.take()); s != "1x2 2x2 3x2" {
			r.Errorf("got %s", s)
		}
	})
}

// A consumer gets its place in the stream where that is current, and once.
func TestConsumerIsPlacedWhereTheStreamIsCurrent(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.cut(ringStream, 1, true)
		r.publish(3)
		r.consumer(api.ConsumerConfig{DeliverPolicy: api.DeliverNew}, 1)
		r.after(time.Second)
		e := r.nodes[1].entry()
		if e.leads() {
			r.Fatal("it is served by a node that does not have all of the stream")
		}
		r.cut(ringStream, 1, false)
		r.after(time.Second)
		if info := e.Info(); !e.leads() || info.Delivered.Stream != 3 || info.NumPending != 0 {
			r.Fatalf("leads %t, %+v", e.leads(), info)
		}
		r.publish(2)
		r.cut(ringStream, 2, true)
		r.publish(1)
		r.elect(ringConsumer, 2, 0) // which is behind, and begins all the same
		in := r.listen("in")
		r.pull("in", 9)
		if s := seqs(in.take()); s != "4 5" {
			r.Errorf("got %s", s)
		}
		r.cut(ringStream, 2, false)
		if s := seqs(in.take()); s != "6" {
			r.Errorf("got %s", s)
		}
		if info := r.nodes[0].entry().Info(); info.Delivered.Stream > 6 || info.Delivered.Stream < 3 {
			r.Errorf("a follower knows %+v", info)
		}
	})
}

// The leader is told a new configuration, followers note it; who asks is answered when it is in force.
func TestConsumerConfigReachesTheLeader(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 1)
		in := r.listen("in")
		r.publish(1)
		first, err := r.nodes[1].entry().current(r.Context())
		if err != nil || first.Delivered.Consumer != 0 {
			r.Fatalf("%v, %+v", err, first)
		}
		r.pull("in", 1)
		cfg := r.nodes[0].entry().Config()
		cfg.AckWait = time.Minute
		r.held(ringConsumer, true)
		for _, n := range r.nodes {
			n.entry().setConfig(cfg)
		}
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if info, err := r.nodes[1].entry().current(ctx); err == nil {
			r.Errorf("answered %+v before the commit", info)
		}
		r.held(ringConsumer, false)
		info, err := r.nodes[1].entry().current(r.Context())
		if err != nil || info.Config.AckWait != time.Minute {
			r.Fatalf("%v, %+v", err, info)
		}
		r.elect(ringConsumer, 2, 0)
		r.after(45 * time.Second)
		in.take()
		r.pull("in", 1)
		if s := seqs(in.take()); s != "" {
			r.Errorf("%s comes again before its time", s)
		}
		r.after(16 * time.Second)
		if s := seqs(in.take()); s != "1x2" {
			r.Errorf("got %q", s)
		}
	})
}

// Entries of logs that were written before groups took snapshots hold whole states.
func TestConsumerReplicaReadsOldLogs(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.publish(5)
		r.consumer(api.ConsumerConfig{}, -1)
		now := time.Now()
		old := consumer.New()
		step := func(op consumer.Op) {
			if err := old.Step(now, op, &consumer.Effects{}); err != nil {
				r.Fatal(err)
			}
		}
		conf := consumer.ConfigOf(&r.nodes[0].entry().config)
		step(consumer.Op{Kind: consumer.SetConfig, Config: &conf})
		step(consumer.Op{Kind: consumer.Reset, Seq: 1})
		step(consumer.Op{Kind: consumer.Deliver, Seq: 1, N: 3})
		step(consumer.Op{Kind: consumer.Ack, Seq: 2})
		const opState = 0x31
		state := old.Snapshot()
		entry := append(binary.AppendUvarint([]byte{1, opState}, uint64(len(state))), state...)
		group := r.groups[ringConsumer]
		group.mu.Lock()
		group.pending = [][]byte{entry}
		group.mu.Unlock()
		group.commit(1)
		for _, n := range r.nodes {
			if !bytes.Equal(n.state(), state) {
				r.Errorf("node %d has another state", n.number)
			}
		}
		r.elect(ringConsumer, 0, 0)
		in := r.listen("in")
		r.pull("in", 9)
		r.after(40 * time.Second)
		if s := seqs(in.take()); s != "4 5 1x2 3x2 4x2 5x2" {
			r.Errorf("got %s", s)
		}
	})
}

// A replica that cannot go on serves nobody, and nothing is removed on its account.
func TestConsumerReplicaThatFails(t *testing.T) {
	inRing(t, api.InterestPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 0)
		in := r.listen("in")
		r.publish(1)
		r.pull("in", 2)
		got := in.take()
		r.after(time.Second)
		var b consumer.Batch
		b.Add(time.Now(), consumer.Op{Kind: consumer.Ack, Seq: 1})
		r.groups[ringConsumer].replicas[0].machine.Apply(99, append(b.Take(), 200)) // half of it can be applied
		synctest.Wait()
		e := r.nodes[0].entry()
		if s := seqs(in.take()); s != "409 Leadership Change" || e.leads() {
			r.Errorf("told %q, leads %t", s, e.leads())
		}
		r.elect(ringConsumer, 1, 0)
		r.ack(got[0], "")
		r.nodes[0].stream.sweep()
		r.after(time.Second)
		if s := r.nodes[0].stored(); s != "[1]" {
			r.Errorf("stored %s", s)
		}
		if _, err := (consumerReplica{e}).Snapshot(); err == nil {
			r.Error("a failed replica gives a state")
		}
	})
}

// A replica that has not caught up needs every message: it may have begun again where it was before.
func TestConsumerReplicaThatStartsNeedsEverything(t *testing.T) {
	inRing(t, api.InterestPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{FilterSubjects: []string{"S.a"}}, -1)
		r.publish(1)
		e := r.nodes[0].entry()
		now := time.Now()
		var b consumer.Batch
		conf := consumer.ConfigOf(&e.config)
		b.Add(now, consumer.Op{Kind: consumer.SetConfig, Config: &conf})
		b.Add(now, consumer.Op{Kind: consumer.Reset, Seq: 5})
		group := r.groups[ringConsumer]
		group.mu.Lock()
		group.pending = [][]byte{b.Take()}
		group.mu.Unlock()
		group.commit(1)
		if !e.Needs(1, "S.a") || e.Needs(1, "other") {
			r.Error("a message that may be needed is not, or one that is not matched is")
		}
		r.elect(ringConsumer, 1, 0)
		r.after(5 * time.Second)
		if e.Needs(1, "S.a") {
			r.Error("needed by a consumer that is beyond it")
		}
	})
}

// Ephemeral consumers of a stream that keeps messages for its consumers end with the leadership of the stream when that was
// not handed over.
func TestEphemeralsEndWithTheLeadership(t *testing.T) {
	inRing(t, api.InterestPolicy, func(r *ring) {
		cfg := api.ConsumerConfig{Name: "C", AckPolicy: api.AckExplicit, AckWait: time.Minute, MaxWaiting: 512,
			InactiveThreshold: time.Hour}
		if _, err := begun(r.nodes[1].stream, cfg, time.Now()); err != api.ErrClusterNotAvail {
			r.Errorf("where the stream is not led: %v", err)
		}
		info, err := begun(r.nodes[0].stream, cfg, time.Now())
		if err != nil || info.Name != "C" {
			r.Fatalf("%v, %+v", err, info)
		}
		if _, err := begun(r.nodes[0].stream, cfg, time.Now()); err != api.ErrConsumerNameExist {
			r.Errorf("a second one: %v", err)
		}
		in := r.listen("in")
		r.publish(2)
		r.pull("in", 3)
		got := in.take()
		if seqs(got) != "1 2" {
			r.Fatalf("got %s", seqs(got))
		}
		r.ack(got[0], "")
		if s := r.nodes[2].stored(); s != "[2]" {
			r.Errorf("stored %s, want 2", s)
		}
		r.elect(ringStream, 1, 0)
		if s := seqs(in.take()); s != "409 Consumer Deleted" {
			r.Errorf("told %q", s)
		}
		if _, err := r.nodes[0].stream.consumer("C"); err == nil {
			r.Error("it lives on")
		}
	})
}

// A consumer that is to be in memory has no group on a node that is alone.
func TestConsumerInMemory(t *testing.T) {
	inRing(t, api.WorkQueuePolicy, func(r *ring) {
		mc := meta.Consumer{Account: "A", Stream: "S", Name: "C", Created: time.Now(), Config: &api.ConsumerConfig{
			Durable: "C", Name: "C", AckPolicy: api.AckExplicit, AckWait: time.Minute, MaxWaiting: 512, MemoryStorage: true,
		}}
		mc.Group.ID = ringConsumer
		r.nodes[0].engine.cfg.Cluster = ""
		if err := r.nodes[0].stream.startConsumer(mc, r.spec(ringConsumer, r.nodes[0])); err != nil {
			r.Fatal(err)
		}
		synctest.Wait()
		if e := r.nodes[0].entry(); !e.leads() || !r.system.HasInterest(leaderSubject(ringConsumer)) || r.groups[ringConsumer] != nil {
			r.Fatal("it is not led, or has a group")
		}
		in := r.listen("in")
		r.publish(2)
		r.pull("in", 3)
		r.ack(in.take()[0], "")
		if s := r.nodes[2].stored(); s != "[2]" {
			r.Errorf("stored %s, want 2", s)
		}
		r.nodes[0].stream.dropConsumer(r.nodes[0].entry())
		synctest.Wait()
		if s := seqs(in.take()); s != "409 Consumer Deleted" || r.system.HasInterest(leaderSubject(ringConsumer)) {
			r.Errorf("told %q", s)
		}
	})
}

// A log of small entries is cut long before it has the size at which the host does that.
func TestConsumerAsksForSnapshots(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		r.consumer(api.ConsumerConfig{}, 0)
		p := r.groups[ringConsumer].replicas[1]
		var b consumer.Batch
		for n := 0; n < 2*snapshotLog+4096; {
			b.Add(time.Now(), consumer.Op{Kind: consumer.Progress, Seq: 1})
			entry := b.Take()
			n += len(entry)
			p.machine.Apply(1, entry)
		}
		if p.snapshots != 2 {
			r.Errorf("asked for %d snapshots, want 2", p.snapshots)
		}
	})
}

// Somebody else calls the first election when the preferred replica's node is away.
func TestFirstIsThere(t *testing.T) {
	const a, b, c = 1<<meta.NodeBits | 1, 2<<meta.NodeBits | 1, 3<<meta.NodeBits | 1
	away := map[uint64]bool{}
	e := &Engine{cfg: Config{Node: meta.NodeOf(a), Online: func(node uint64) bool { return !away[node] }}}
	spec := GroupSpec{ID: 7, Began: []uint64{a, b, c}}
	for _, tc := range []struct{ gone, want uint64 }{{0, b}, {b, c}, {c, a}} {
		away[meta.NodeOf(tc.gone)] = true
		if got := e.first(&spec); got != tc.want {
			t.Errorf("%v away: %x calls the first election, want %x", away, got, tc.want)
		}
	}
}

// The preferred replica calls elections until somebody leads, the others do not.
func TestCampaign(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		preferred := int(ringConsumer % 3)
		r.consumer(api.ConsumerConfig{}, -1)
		r.after(100 * time.Millisecond)
		for i, p := range r.groups[ringConsumer].replicas {
			if i == preferred && p.campaigns < 3 || i != preferred && p.campaigns != 0 {
				r.Errorf("replica %d called %d elections, replica %d is preferred", i, p.campaigns, preferred)
			}
		}
		r.elect(ringConsumer, (preferred+1)%3, 0)
		p := r.groups[ringConsumer].replicas[preferred]
		n := p.campaigns
		r.after(time.Hour)
		if p.campaigns != n {
			r.Errorf("%d elections called with a leader", p.campaigns-n)
		}
		r.elect(ringConsumer, -1, 0)
		r.after(time.Hour)
		if p.campaigns != n {
			r.Errorf("%d elections called later", p.campaigns-n)
		}
	})
	var spread [3]int
	for id := range uint64(300) {
		spec := GroupSpec{ID: id, Began: []uint64{1, 2, 3}}
		spread[spec.Preferred()-1]++
	}
	if spread != [3]int{100, 100, 100} {
		t.Errorf("leaders are spread as %v", spread)
	}
	if strings.Contains(fmt.Sprint((&GroupSpec{ID: 7}).Preferred()), "1") {
		t.Error("a group of nobody has a preferred replica")
	}
}
