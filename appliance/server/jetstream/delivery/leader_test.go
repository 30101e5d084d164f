package delivery

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/consumer"
)

// A consumer that is abandoned tells those who pull, and nobody that something is committed.
func TestAbandon(t *testing.T) {
	inBubble(t, 3, func(t *bench) {
		t.start(explicit)
		t.after(time.Second)
		got := t.pull("in", "5")
		t.want(got, "1", "2", "3")
		t.log.manual = true
		t.bus.listen("ok")
		t.bus.send(got[0].reply, "ok", "")
		var synced, updated error
		t.Sync(func(err error) { synced = err })
		t.after(time.Second)
		t.bus.send(got[1].reply, "ok", "") // not in an entry when the end comes
		offered := t.log.offered()
		t.Abandon()
		t.Update(*t.Info().Config, func(err error) { updated = err })
		left := t.bus.take("in")
		t.want(left, "409 Leadership Change")
		if left[0].header != "NATS/1.0 409 Leadership Change\r\n\r\n" {
			t.Errorf("status %q", left[0].header)
		}
		if n := len(t.bus.take("ok")); n != 0 {
			t.Errorf("%d acknowledgements are confirmed", n)
		}
		if synced != ErrNotLeader || updated != ErrNotLeader {
			t.Errorf("sync %v, update %v", synced, updated)
		}
		if n := t.log.offered(); n != offered {
			t.Errorf("%d entries offered at the end", n-offered)
		}
		if len(t.bus.handlers) != 0 {
			t.Errorf("%d subscriptions left", len(t.bus.handlers))
		}
		if _, more := <-t.Ready(); more {
			<-t.Ready()
		}
	})
}

// A log that takes nothing because the leader hands over is not asked all the time, and nothing is
// delivered meanwhile; a leader that stays one goes on where it was.
func TestNotLeaderWaits(t *testing.T) {
	inBubble(t, 4, func(t *bench) {
		t.start(explicit)
		t.after(time.Second)
		got := t.pull("in", "2")
		t.after(time.Second)
		t.log.setFail(ErrNotLeader)
		t.bus.listen("ok")
		t.bus.send(got[0].reply, "ok", "")
		offered := t.log.offered()
		t.after(10 * time.Second)
		if n := t.log.offered() - offered; n > 60 {
			t.Errorf("%d offers in 10 s", n)
		}
		t.want(t.pull("in", "2"))
		t.bus.send(got[1].reply, "ok", "") // is not heard
		t.after(time.Second)
		if n := len(t.bus.take("ok")); n != 0 || len(t.seen().errs) != 0 {
			t.Fatalf("%d answers, errors %v", n, t.seen().errs)
		}
		t.log.setFail(nil)
		t.after(time.Second)
		t.want(t.bus.take("in"), "3", "4")
		if n := len(t.bus.take("ok")); n != 1 || fmt.Sprint(t.seen().settled) != "[1]" {
			t.Errorf("%d answers, settled %v", n, t.seen().settled)
		}
	})
}

// What was delivered and not acknowledged is delivered again when its ack wait is over, by whoever leads
// then; what was not committed is delivered again at once. A place in the stream is given once.
func TestLeaderChange(t *testing.T) {
	inBubble(t, 6, func(t *bench) {
		conf := explicit
		conf.DeliverPolicy, conf.OptStartSeq = api.DeliverByStartSequence, 2
		t.start(conf)
		t.after(time.Second)
		got := t.pull("in", "3")
		t.want(got, "2", "3", "4")
		t.after(10 * time.Second)
		t.ack(got[0], "")
		t.after(time.Second)
		t.log.manual = true
		t.want(t.pull("in", "1"), "5") // is proposed, and lost
		t.after(time.Second)
		t.Abandon()
		t.log.forget()
		t.log.manual = false
		t.restart(conf)
		if info := t.Info(); info.NumAckPending != 2 || info.AckFloor.Stream != 2 || info.Delivered.Stream != 4 {
			t.Errorf("info %+v", info)
		}
		again := t.pull("in", "5")
		t.want(again, "5", "6")
		if n := again[0].number(2); n != 4 {
			t.Errorf("consumer sequence %d, want 4", n)
		}
		t.after(17 * time.Second)
		t.want(t.bus.take("in"))
		t.after(2 * time.Second)
		t.want(t.bus.take("in"), "3x2", "4x2")
	})
}

// TestLeaderChanges hands a consumer from leader to leader at random moments, when some of what is
// proposed is committed and the rest is lost: what was confirmed as acknowledged never comes again,
// nothing is left out, and replicas agree.
func TestLeaderChanges(t *testing.T) {
	const messages = 60
	for seed := range uint64(40) {
		inBubble(t, messages, func(t *bench) {
			rng := rand.New(rand.NewPCG(seed, 4))
			conf := explicit
			conf.AckWait = 5 * time.Second
			t.start(conf)
			t.log.manual = true
			acked, confirmed := map[uint64]bool{}, map[uint64]bool{}
			byReply := map[string]uint64{}
			acks := 0
			collect := func() {
				for reply, seq := range byReply {
					if len(t.bus.take(reply)) > 0 {
						confirmed[seq] = true
						delete(byReply, reply)
					}
				}
			}
			for round := 0; t.log.state().Floor().Stream < messages; round++ {
				if round > 2000 {
					t.Fatalf("seed %d: %d acknowledgements confirmed after %d rounds, %+v", seed, len(confirmed), round, t.Info())
				}
				for _, m := range t.pull("in", fmt.Sprintf(`{"batch":%d,"expires":500000000}`, 1+rng.IntN(8))) {
					if m.status() != "" {
						continue
					}
					seq := m.number(1)
					if confirmed[seq] {
						t.Fatalf("seed %d: message %d comes again after its acknowledgement was confirmed", seed, seq)
					}
					if rng.IntN(4) > 0 {
						acks++
						acked[seq] = true
						reply := fmt.Sprint("ok", acks)
						byReply[reply] = seq
						t.bus.listen(reply)
						t.bus.send(m.reply, reply, "")
					}
				}
				t.after(time.Duration(rng.IntN(50)) * time.Millisecond)
				t.log.commitSome(rng.IntN(4))
				synctest.Wait()
				collect()
				if rng.IntN(6) > 0 {
					continue
				}
				if rng.IntN(2) == 0 {
					t.log.setFail(ErrNotLeader)
					t.after(time.Duration(rng.IntN(500)) * time.Millisecond)
				}
				t.Abandon()
				collect()
				t.bus.take("in")
				t.log.mu.Lock()
				waiting := t.log.waiting
				for i := range waiting {
					waiting[i].committed = func() {} // the next leader may find it in its log
				}
				t.log.mu.Unlock()
				t.log.commitSome(rng.IntN(5))
				t.log.forget()
				t.log.setFail(nil)
				t.restart(conf)
			}
			t.log.commit()
			replica := consumer.New()
			for _, entry := range t.log.take() {
				if err := replica.Apply(entry, &consumer.Effects{}); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(replica.Snapshot(), t.log.state().Snapshot()) {
				t.Errorf("seed %d: replicas differ", seed)
			}
			settled := map[uint64]bool{}
			for _, seq := range t.log.settled() {
				settled[seq] = true
			}
			for seq := range uint64(messages) {
				if !settled[seq+1] || !acked[seq+1] {
					t.Errorf("seed %d: message %d: settled %t, acknowledged %t", seed, seq+1, settled[seq+1], acked[seq+1])
				}
			}
			if len(confirmed) < messages/4 {
				t.Errorf("seed %d: %d acknowledgements were confirmed", seed, len(confirmed))
			}
		})
	}
}

// A leader whose copy of the stream is behind waits for it: it neither forgets what it cannot see nor
// starts again.
func TestStreamBehind(t *testing.T) {
	inBubble(t, 6, func(t *bench) {
		t.start(explicit)
		got := t.pull("in", "6")
		t.ack(got[0], "")
		t.Close()
		t.stream.mu.Lock()
		t.stream.last = 3
		t.stream.mu.Unlock()
		t.restart(explicit)
		t.after(time.Minute)
		t.want(t.pull("in", "9"), "2x2", "3x2")
		if info := t.Info(); info.NumAckPending != 5 || info.Delivered.Stream != 6 || len(t.seen().errs) != 0 {
			t.Errorf("info %+v, errors %v", info, t.seen().errs)
		}
		if got := t.seen().behind; !slices.Equal(got, []bool{true}) {
			t.Errorf("told that it is behind: %v", got)
		}
		t.HeadMoved(1, false)
		for _, last := range []uint64{4, 6} {
			t.stream.mu.Lock()
			t.stream.last = last
			t.stream.mu.Unlock()
			t.NewMessages()
			synctest.Wait()
		}
		t.want(t.bus.take("in"), "4x2", "5x2", "6x2")
		if got := t.seen().behind; !slices.Equal(got, []bool{true, false}) {
			t.Errorf("told that it is behind: %v", got)
		}
		t.publish("a")
		list := t.bus.take("in")
		t.want(list, "7")
		if n := list[0].number(4); n != 0 {
			t.Errorf("%d pending, want 0", n)
		}
	})
}

// A worker is not called for what is not here.
func TestStreamBehindForWorkers(t *testing.T) {
	inBubble(t, 2, func(t *bench) {
		t.start(explicit)
		if got := t.Fetch(5, 0); len(got) != 2 {
			t.Fatalf("%d messages", len(got))
		}
		t.Close()
		t.stream.mu.Lock()
		t.stream.last = 1
		t.stream.mu.Unlock()
		t.restart(explicit)
		t.after(time.Minute)
		<-t.Ready()
		if got := t.Fetch(5, 0); len(got) != 1 {
			t.Fatalf("%d messages", len(got))
		}
		t.after(time.Second)
		select {
		case <-t.Ready():
			t.Fatal("ready for nothing")
		default:
		}
		t.stream.mu.Lock()
		t.stream.last = 2
		t.stream.mu.Unlock()
		t.NewMessages()
		<-t.Ready()
		if got := t.Fetch(5, 0); len(got) != 1 || got[0].Seq != 2 {
			t.Errorf("got %v", got)
		}
	})
}

// The last message of each subject cannot be told before the stream reaches up to where the consumer began.
func TestStreamBehindInLastPerSubjectStart(t *testing.T) {
	inBubble(t, 9, func(t *bench) { // last of a b c: 7 8 9
		conf := explicit
		conf.DeliverPolicy = api.DeliverLastPerSubject
		t.start(conf)
		t.after(time.Second)
		t.Close()
		t.stream.mu.Lock()
		t.stream.last = 7
		t.stream.mu.Unlock()
		t.restart(conf)
		t.want(t.pull("in", "9"))
		t.stream.mu.Lock()
		t.stream.last = 9
		t.stream.mu.Unlock()
		t.NewMessages()
		synctest.Wait()
		list := t.bus.take("in")
		t.want(list, "7", "8", "9")
		if n := list[0].number(4); n != 2 {
			t.Errorf("%d pending, want 2", n)
		}
	})
}
