package delivery

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

func TestInactivePull(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		conf := explicit
		conf.InactiveThreshold = 5 * time.Second
		t.start(conf)
		t.after(4 * time.Second)
		t.pull("in", `{"batch":2,"expires":20000000000}`) // one delivered, one waits
		t.after(20 * time.Second)
		if t.seen().idle != 0 {
			t.Fatal("inactive while a request waits")
		}
		t.want(t.bus.take("in"), "408 Request Timeout")
		t.after(9 * time.Second)
		if t.seen().idle != 0 {
			t.Fatal("inactive while a delivery may be worked on")
		}
		t.after(8 * time.Second) // ack wait of 30 s and threshold are over
		if t.seen().idle != 1 {
			t.Fatalf("inactive %d times, want 1", t.seen().idle)
		}
		t.after(time.Hour)
		if t.seen().idle != 1 {
			t.Errorf("inactive %d times, want 1", t.seen().idle)
		}
	})
}

func TestInactivePush(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.start(api.ConsumerConfig{DeliverSubject: "d", InactiveThreshold: 5 * time.Second})
		t.after(4 * time.Second)
		t.bus.listen("d")
		t.after(time.Hour)
		if t.seen().idle != 0 {
			t.Fatal("inactive with interest")
		}
		t.bus.ignore("d")
		t.after(5*time.Second - 1)
		if t.seen().idle != 0 {
			t.Fatal("inactive too early")
		}
		t.after(1)
		if t.seen().idle != 1 {
			t.Errorf("inactive %d times, want 1", t.seen().idle)
		}
	})
}

func TestPause(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.bus.listen("$JS.EVENT.ADVISORY.CONSUMER.PAUSE.S.C")
		t.start(explicit)
		conf := t.Info().Config
		until := time.Now().Add(time.Minute)
		conf.PauseUntil = &until
		t.Update(*conf, func(error) {})
		t.want(t.pull("in", `{"batch":3,"expires":90000000000,"idle_heartbeat":40000000000}`))
		info := t.Info()
		if !info.Paused || info.PauseRemaining != time.Minute {
			t.Errorf("info %+v", info)
		}
		t.after(59 * time.Second)
		t.want(t.bus.take("in"), "100 Idle Heartbeat")
		t.after(time.Second)
		t.want(t.bus.take("in"), "1")
		if n := len(t.bus.take("$JS.EVENT.ADVISORY.CONSUMER.PAUSE.S.C")); n != 2 {
			t.Errorf("%d advisories, want 2", n)
		}
		if t.Info().Paused {
			t.Error("still paused")
		}
	})
}

func TestRestartKeepsState(t *testing.T) {
	inBubble(t, 6, func(t *bench) {
		conf := explicit
		conf.MaxDeliver = 2
		t.start(conf)
		got := t.pull("in", "4")
		t.ack(got[0], "")
		t.ack(got[2], "")
		t.ack(got[1], "-NAK")
		t.want(t.pull("in", "1"), "2x2")
		t.Close()
		t.stream.add("a", "while away")
		t.restart(conf)
		info := t.Info()
		if info.Delivered.Consumer != 5 || info.Delivered.Stream != 4 || info.AckFloor.Stream != 1 ||
			info.NumAckPending != 2 || info.NumRedelivered != 1 || info.NumPending != 3 {
			t.Errorf("info %+v", info)
		}
		t.want(t.pull("in", "9"), "5", "6", "7")
		t.after(30 * time.Second)
		t.want(t.bus.take("in"), "4x2", "5x2", "6x2", "7x2")
	})
}

// Pending messages that left the stream while the consumer did not run are forgotten.
func TestRestartReconcilesWithStream(t *testing.T) {
	inBubble(t, 6, func(t *bench) {
		t.start(explicit)
		got := t.pull("in", "5")
		t.ack(got[1], "")
		t.ack(got[3], "")
		t.Close()
		t.stream.remove(1)
		t.stream.remove(5)
		t.restart(explicit)
		t.after(time.Second)
		if fmt.Sprint(t.seen().settled) != "[2 4]" {
			t.Errorf("settled %v", t.seen().settled)
		}
		if info := t.Info(); info.NumAckPending != 1 || info.AckFloor.Stream != 2 {
			t.Errorf("info %+v", info)
		}
	})
}

// A stream that lost delivered messages (or was replaced) must not hide its new ones.
func TestRestartOnShorterStream(t *testing.T) {
	inBubble(t, 6, func(t *bench) {
		t.lossy = true
		t.start(explicit)
		got := t.pull("in", "6")
		t.ack(got[0], "")
		t.Close()
		t.stream.mu.Lock()
		t.stream.last = 3
		t.stream.mu.Unlock()
		t.restart(explicit)
		if len(t.seen().errs) != 1 {
			t.Errorf("errors %v", t.seen().errs)
		}
		t.want(t.pull("in", "9"), "2", "3")
	})
}

func TestRestartInLastPerSubjectStart(t *testing.T) {
	inBubble(t, 9, func(t *bench) { // last of a b c: 7 8 9
		conf := explicit
		conf.DeliverPolicy = api.DeliverLastPerSubject
		t.start(conf)
		t.want(t.pull("in", "1"), "7")
		t.stream.add("b", "after the start")
		t.Close()
		t.restart(conf)
		if n := t.Info().NumPending; n != 3 {
			t.Errorf("%d pending, want 3", n)
		}
		t.want(t.pull("in", "4"), "8", "9", "10")
	})
}

func TestRemovedMessages(t *testing.T) {
	inBubble(t, 8, func(t *bench) {
		t.start(explicit)
		t.want(t.pull("in", "4"), "1", "2", "3", "4")
		remove := func(seq uint64) {
			t.stream.remove(seq)
			t.Removed(seq)
			synctest.Wait()
		}
		remove(1)
		if info := t.Info(); info.NumAckPending != 3 || info.AckFloor.Stream != 1 {
			t.Errorf("info %+v", info)
		}
		remove(6)
		got := t.pull("in", "1")
		t.want(got, "5")
		if n := got[0].number(4); n != 2 {
			t.Errorf("%d pending, want 2", n)
		}
		// All gone: the delivered sequence follows a purge.
		for seq := range uint64(9) {
			t.stream.remove(seq)
		}
		t.HeadMoved(9, true)
		synctest.Wait()
		if info := t.Info(); info.NumAckPending != 0 || info.AckFloor.Stream != 8 || info.NumPending != 0 {
			t.Errorf("info %+v", info)
		}
		t.publish("a")
		t.want(t.pull("in", "1"), "9")
	})
}

// Pending messages that the limits of the stream removed are announced, purged ones are not.
func TestHeadMovedTellsOfDeletedMessages(t *testing.T) {
	inBubble(t, 9, func(t *bench) {
		const advisory = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.C"
		t.bus.listen(advisory)
		t.start(explicit)
		t.pull("in", "4")
		for _, step := range []struct {
			first   uint64
			byPurge bool
			want    int
		}{{3, false, 2}, {4, true, 0}, {9, false, 1}} {
			for seq := range step.first {
				t.stream.remove(seq)
			}
			t.HeadMoved(step.first, step.byPurge)
			synctest.Wait()
			if got := t.bus.take(advisory); len(got) != step.want {
				t.Errorf("head %d, purge %t: %d advisories, want %d", step.first, step.byPurge, len(got), step.want)
			}
		}
	})
}

// A consumer that holds nothing hears no more of what the limits remove at the head once it has delivered
// what there was, and counts right all the same.
func TestLiveLooksAtTheHeadItself(t *testing.T) {
	inBubble(t, 4, func(t *bench) {
		t.start(api.ConsumerConfig{AckPolicy: api.AckNone})
		t.want(t.pull("in", "3"), "1", "2", "3")
		if n := t.seen().live; n != 0 {
			t.Errorf("live %d times with a message left", n)
		}
		t.want(t.pull("in", "2"), "4")
		if n := t.seen().live; n != 1 {
			t.Errorf("live %d times at the end", n)
		}
		for range 7 {
			t.publish("a")
		}
		list := t.bus.take("in")
		t.want(list, "5")
		if n := list[0].number(4); n > 6 {
			t.Errorf("%d pending, want at most 6", n)
		}
		for seq := range uint64(10) {
			t.stream.remove(seq)
		}
		list = t.pull("in", "1") // nobody told it
		t.want(list, "10")
		if n := list[0].number(4); n != 1 {
			t.Errorf("%d pending, want 1", n)
		}
		if n := t.seen().live; n != 1 {
			t.Errorf("live %d times", n)
		}
	})
}

// A purge of some subjects leaves others.
func TestPurgedInTheMiddle(t *testing.T) {
	inBubble(t, 9, func(t *bench) {
		t.start(explicit)
		t.pull("in", "6")
		for _, seq := range []uint64{2, 5, 8} {
			t.stream.remove(seq)
		}
		t.HeadMoved(1, true)
		synctest.Wait()
		if info := t.Info(); info.NumAckPending != 4 || info.NumPending != 2 {
			t.Errorf("info %+v", info)
		}
		t.after(30 * time.Second)
		t.want(t.pull("in", "9"), "1x2", "3x2", "4x2", "6x2", "7", "9")
	})
}

func TestReset(t *testing.T) {
	inBubble(t, 5, func(t *bench) {
		t.start(explicit)
		got := t.pull("in", "4")
		t.ack(got[0], "")
		reset := func(seq uint64) (next uint64) {
			t.Reset(seq, func(n uint64, err error) {
				if err != nil {
					t.Error(err)
				}
				next = n
			})
			synctest.Wait()
			return next
		}
		if next := reset(0); next != 2 {
			t.Errorf("next %d, want 2", next)
		}
		if info := t.Info(); info.NumPending != 4 || info.NumAckPending != 0 || info.Delivered.Consumer != 0 {
			t.Errorf("info %+v", info)
		}
		t.want(t.pull("in", "2"), "2", "3")
		if next := reset(5); next != 5 {
			t.Errorf("next %d, want 5", next)
		}
		t.want(t.pull("in", "2"), "5")
	})
	inBubble(t, 5, func(t *bench) {
		conf := explicit
		conf.DeliverPolicy, conf.OptStartSeq = api.DeliverByStartSequence, 3
		t.start(conf)
		var err error
		t.Reset(2, func(_ uint64, e error) { err = e })
		synctest.Wait()
		if err == nil || err.Error() != "below start seq" {
			t.Errorf("got %v", err)
		}
	})
}

func TestUpdateRefusesOtherKind(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.start(explicit)
		conf := *t.Info().Config
		conf.AckPolicy = api.AckNone
		var err error
		t.Update(conf, func(e error) { err = e })
		synctest.Wait()
		if err == nil {
			t.Error("the ack policy was changed")
		}
	})
}

func TestUpdateOfAckWait(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.start(explicit)
		t.want(t.pull("in", "5"), "1")
		conf := *t.Info().Config
		conf.AckWait = 5 * time.Second
		t.Update(conf, func(error) {})
		t.after(5 * time.Second)
		t.want(t.bus.take("in"), "1x2")
	})
}

func TestNewRefusesWhatItDoesNotDo(t *testing.T) {
	stream, bus := newFakeStream(), newFakeBus()
	for name, conf := range map[string]Config{
		"name":     {Source: stream, Bus: bus},
		"source":   {Stream: "S", Name: "C", Bus: bus},
		"policy":   {Stream: "S", Name: "C", Source: stream, Bus: bus, Config: api.ConsumerConfig{AckPolicy: api.AckFlowControl}},
		"priority": {Stream: "S", Name: "C", Source: stream, Bus: bus, Config: api.ConsumerConfig{PriorityPolicy: api.PriorityOverflow}},
	} {
		if _, err := New(conf); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A read error holds deliveries back, is reported, and is tried again.
func TestLoadError(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.stream.fail = errTest
		t.start(explicit)
		t.want(t.pull("in", "1"))
		t.after(2500 * time.Millisecond)
		if n := len(t.seen().errs); n != 3 {
			t.Errorf("%d errors, want 3: %v", n, t.seen().errs)
		}
		t.stream.mu.Lock()
		t.stream.fail = nil
		t.stream.mu.Unlock()
		t.after(time.Second)
		t.want(t.bus.take("in"), "1")
	})
}

// An idle consumer runs no timer: hours pass without a step.
func TestIdleConsumerCostsNothing(t *testing.T) {
	inBubble(t, 3, func(t *bench) {
		t.start(explicit)
		for _, m := range t.pull("in", "3") {
			t.ack(m, "")
		}
		t.pull("in", "1") // waits for ever
		t.after(time.Minute)
		before := t.now
		t.after(1000 * time.Hour)
		if !t.now.Equal(before) {
			t.Errorf("a step at %v, the last useful one was at %v", t.now, before)
		}
		for range 10 {
			t.stream.add("a", "x")
		}
		t.NewMessages()
		synctest.Wait()
		t.want(t.bus.take("in"), "4")
	})
}
