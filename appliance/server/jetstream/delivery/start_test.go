package delivery

import (
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// startWith starts a watcher, whose answer goes to "d" too, and returns what is there at once and after a while.
func startWith(t *bench, during func()) (at, after []sent) {
	t.Helper()
	t.log = nil
	t.bus.listen("d")
	t.make(api.ConsumerConfig{AckPolicy: api.AckNone, DeliverSubject: "d", MaxDeliver: 1, InactiveThreshold: time.Minute})
	if err := t.StartWith(func(out Publisher, info *api.ConsumerInfo) {
		if info.Delivered.Consumer != 0 || info.Name != "C" {
			t.Errorf("info %+v", info)
		}
		out.Publish("d", "", []byte("NATS/1.0 answer\r\n\r\n"), nil)
		during()
	}); err != nil {
		t.Fatal(err)
	}
	at = t.bus.take("d")
	synctest.Wait()
	return at, t.bus.take("d")
}

func TestStartWithDeliversAfterTheAnswer(t *testing.T) {
	inBubble(t, 3, func(t *bench) {
		at, after := startWith(t, func() {})
		t.want(at, "answer", "1", "2", "3")
		t.want(after)
		t.publish("a")
		t.want(t.bus.take("d"), "4")
		if s := t.seen(); s.live != 1 {
			t.Errorf("live %d times", s.live)
		}
	})
}

func TestStartWithLeavesMoreThanABurst(t *testing.T) {
	inBubble(t, 3*burst, func(t *bench) {
		at, after := startWith(t, func() {})
		if len(at) < 1+burst || len(at)+len(after) != 1+3*burst {
			t.Fatalf("%d at once, %d after", len(at), len(after))
		}
		for i, m := range append(at, after...)[1:] {
			if m.number(1) != uint64(i+1) {
				t.Fatalf("message %d in place %d", m.number(1), i+1)
			}
		}
	})
}

// What comes while a consumer starts is not missed.
func TestStartWithSeesWhatComesMeanwhile(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		at, after := startWith(t, func() {
			t.stream.add("a", "new")
			t.NewMessages()
			t.post(func() { t.bus.Publish("d", "", []byte("NATS/1.0 posted\r\n\r\n"), nil) }, nil)
		})
		t.want(append(at, after...), "answer", "posted", "1")
	})
	inBubble(t, 1, func(t *bench) {
		ending, ended := make(chan struct{}), make(chan struct{})
		at, after := startWith(t, func() {
			go func() {
				close(ending)
				t.Close() // waits for the start
				close(ended)
			}()
			<-ending
		})
		<-ended
		t.want(append(at, after...), "answer", "1")
		if err := t.StartWith(nil); err != ErrClosed {
			t.Errorf("start of a consumer that has ended: %v", err)
		}
	})
}
