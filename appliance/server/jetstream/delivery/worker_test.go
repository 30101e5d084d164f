package delivery

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func (b *bench) isReady() bool {
	select {
	case _, ok := <-b.Ready():
		return ok
	default:
		return false
	}
}

func TestWorkerFetchAndSettle(t *testing.T) {
	inBubble(t, 4, func(t *bench) {
		t.log.manual = true
		t.start(explicit)
		if !t.isReady() {
			t.Fatal("not ready at the start")
		}
		got := t.Fetch(3, 0)
		if len(got) != 3 || got[2].Seq != 3 || got[2].Subject != "c" || string(got[2].Data) != "m3" || got[2].Pending != 1 || got[2].Deliveries != 1 {
			t.Fatalf("fetched %+v", got)
		}
		if string(got[0].Data) != "m1" {
			t.Error("deliveries share a buffer")
		}
		done := false
		t.Settle([]Settlement{{Seq: 1, Kind: SettleAck}, {Seq: 2, Kind: SettleNak, Delay: time.Second}, {Seq: 3, Kind: SettleTerm, Reason: "bad"}},
			func(err error) { done = err == nil })
		t.after(100 * time.Millisecond)
		if done || len(t.seen().settled) > 0 {
			t.Error("settled before the commit")
		}
		t.log.commit()
		synctest.Wait()
		t.log.manual = false
		if !done || fmt.Sprint(t.seen().settled) != "[1 3]" {
			t.Errorf("done %t, settled %v", done, t.seen().settled)
		}
		if got := t.Fetch(9, 0); len(got) != 1 || got[0].Seq != 4 {
			t.Fatalf("fetched %+v", got)
		}
		if t.isReady() {
			t.Error("ready with nothing to fetch")
		}
		t.after(time.Second)
		if !t.isReady() {
			t.Error("not ready for a redelivery")
		}
		if got := t.Fetch(9, 0); len(got) != 1 || got[0].Seq != 2 || got[0].Deliveries != 2 {
			t.Fatalf("fetched %+v", got)
		}
		t.publish("a")
		if !t.isReady() {
			t.Error("not ready for a new message")
		}
		t.Delete()
		if _, ok := <-t.Ready(); ok {
			t.Error("ready is not closed")
		}
		var err error
		t.Settle(nil, func(e error) { err = e })
		if err != ErrClosed {
			t.Errorf("settle after delete: %v", err)
		}
	})
}

func TestWorkerMaxBytes(t *testing.T) {
	inBubble(t, 4, func(t *bench) {
		t.start(explicit)
		if got := t.Fetch(4, 7); len(got) != 2 { // 3 bytes each, with the subject
			t.Errorf("fetched %+v", got)
		}
		if got := t.Fetch(4, 1); len(got) != 1 {
			t.Errorf("fetched %+v", got)
		}
	})
}

func TestWorkerHeldByMaxAckPending(t *testing.T) {
	inBubble(t, 4, func(t *bench) {
		conf := explicit
		conf.MaxAckPending = 2
		t.start(conf)
		t.isReady()
		got := t.Fetch(4, 0)
		if len(got) != 2 || t.isReady() {
			t.Fatalf("fetched %+v", got)
		}
		t.Settle([]Settlement{{Seq: 1}}, func(error) {})
		synctest.Wait()
		if !t.isReady() {
			t.Error("not ready after a settlement made room")
		}
		if got := t.Fetch(4, 0); len(got) != 1 || got[0].Seq != 3 {
			t.Errorf("fetched %+v", got)
		}
	})
}
