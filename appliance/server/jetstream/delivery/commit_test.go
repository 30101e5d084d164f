package delivery

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Deliveries and plain acknowledgements share entries.
func TestEntriesAreShared(t *testing.T) {
	inBubble(t, 100, func(t *bench) {
		t.start(explicit)
		t.after(time.Second)
		before := len(t.log.take())
		for range 10 {
			for _, m := range t.pull("in", "10") {
				t.ack(m, "")
			}
		}
		t.after(time.Second)
		entries := t.log.take()[before:]
		if len(entries) != 1 || len(entries[0]) > 100 {
			t.Errorf("%d entries of %d bytes for 100 deliveries and acks", len(entries), len(entries[0]))
		}
	})
}

func TestSyncWaitsForCommit(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.log.manual = true
		t.start(explicit)
		done := false
		t.Sync(func(err error) { done = err == nil })
		t.after(time.Second)
		if done {
			t.Fatal("synced before the commit")
		}
		t.log.commit()
		synctest.Wait()
		if !done {
			t.Error("not synced after the commit")
		}
	})
}

// A log that refuses entries is offered them again, in order; those who wait wait for their own entry.
func TestLogRefuses(t *testing.T) {
	inBubble(t, 5, func(t *bench) {
		t.start(explicit)
		t.after(time.Second)
		got := t.pull("in", "3")
		t.after(time.Second)
		t.bus.listen("ok")
		t.log.setFail(errTest)
		t.bus.send(got[0].reply, "ok", "")
		t.after(time.Second)
		t.bus.send(got[1].reply, "ok", "")
		t.after(time.Second)
		if n := len(t.bus.take("ok")); n != 0 || len(t.seen().settled) != 0 || len(t.seen().errs) < 10 {
			t.Fatalf("%d answers, settled %v, %d errors", n, t.seen().settled, len(t.seen().errs))
		}
		t.log.manual = true
		t.log.setFail(nil)
		t.after(time.Second)
		t.log.commitSome(1)
		synctest.Wait()
		if n := len(t.bus.take("ok")); n != 1 || fmt.Sprint(t.seen().settled) != "[1]" {
			t.Errorf("%d answers, settled %v after the first commit", n, t.seen().settled)
		}
		t.log.commit()
		synctest.Wait()
		if n := len(t.bus.take("ok")); n != 1 || fmt.Sprint(t.seen().settled) != "[1 2]" {
			t.Errorf("%d answers, settled %v after the second commit", n, t.seen().settled)
		}
		t.log.manual = false
		t.Close()
		t.restart(explicit)
		if info := t.Info(); info.AckFloor.Stream != 2 || info.NumAckPending != 1 {
			t.Errorf("info %+v", info)
		}
	})
}

// A log that does not commit must not let the memory of its consumer grow for ever.
func TestStuckLogStopsConsumer(t *testing.T) {
	inBubble(t, 2, func(t *bench) {
		t.log.manual = true
		t.start(explicit)
		got := t.pull("in", "1")
		for range 2 * maxFlights { // the log takes no more than so many entries
			t.bus.send(got[0].reply, "ok", "+WPI")
			t.after(time.Second)
		}
		if n := t.log.offered(); n != maxFlights {
			t.Fatalf("%d entries proposed, want %d", n, maxFlights)
		}
		for range stopEntry / 5 { // an operation has 5 bytes or more
			t.bus.send(got[0].reply, "", "+WPI")
			t.after(time.Microsecond)
		}
		if n := t.batch.Len(); n < stopEntry || n > stopEntry+100 {
			t.Errorf("open entry of %d bytes", n)
		}
		t.want(t.pull("in", "1"))
		t.log.commit()
		synctest.Wait()
		t.want(t.bus.take("in"), "2")
	})
}
