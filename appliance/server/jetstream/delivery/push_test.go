package delivery

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

func TestPushDeliversWhileThereIsInterest(t *testing.T) {
	inBubble(t, 2, func(t *bench) {
		t.start(api.ConsumerConfig{AckPolicy: api.AckExplicit, DeliverSubject: "d"})
		if t.Info().PushBound {
			t.Error("bound without interest")
		}
		t.bus.listen("d")
		synctest.Wait()
		t.want(t.bus.take("d"), "1", "2")
		if !t.Info().PushBound {
			t.Error("not bound with interest")
		}
		t.publish("a")
		t.want(t.bus.take("d"), "3")
		t.bus.ignore("d")
		t.publish("a")
		t.after(30 * time.Second)
		t.bus.listen("d")
		synctest.Wait()
		t.want(t.bus.take("d"), "1x2", "2x2", "3x2", "4")
	})
}

// Receivers outside of the deliver group are none.
func TestPushWaitsForItsGroup(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		t.bus.mu.Lock()
		t.bus.inboxes["d"] = nil // of another group: the watch does not see it
		t.bus.mu.Unlock()
		t.start(api.ConsumerConfig{AckPolicy: api.AckExplicit, DeliverSubject: "d", DeliverGroup: "g"})
		synctest.Wait()
		if got := t.bus.take("d"); len(got) > 0 || t.Info().PushBound {
			t.Errorf("delivered %v outside of the group", got)
		}
		t.bus.listen("d")
		synctest.Wait()
		t.want(t.bus.take("d"), "1")
	})
}

// The receiver can vanish between the interest event and the delivery: nothing is booked then.
func TestPushWithoutReceiverBooksNothing(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.bus.listen("d")
		t.start(api.ConsumerConfig{AckPolicy: api.AckExplicit, DeliverSubject: "d"})
		t.bus.mu.Lock()
		delete(t.bus.inboxes, "d")
		t.bus.mu.Unlock()
		t.publish("a")
		if info := t.Info(); info.Delivered.Consumer != 0 || info.PushBound || info.NumPending != 1 {
			t.Errorf("info %+v", info)
		}
		t.bus.listen("d")
		synctest.Wait()
		t.want(t.bus.take("d"), "1")
	})
}

func TestPushOrderedConsumer(t *testing.T) {
	inBubble(t, 3, func(t *bench) {
		t.log = nil
		t.bus.listen("d")
		t.start(api.ConsumerConfig{AckPolicy: api.AckNone, DeliverSubject: "d", MaxDeliver: 1, FlowControl: true,
			Heartbeat: 5 * time.Second, MemoryStorage: true, InactiveThreshold: 10 * time.Second})
		t.want(t.bus.take("d"), "1", "2", "3")
		info := t.Info()
		if info.NumAckPending != 0 || info.AckFloor.Stream != 3 {
			t.Errorf("info %+v", info)
		}
		t.after(5 * time.Second)
		got := t.bus.take("d")
		t.want(got, "100 Idle Heartbeat")
		if got[0].field("Nats-Last-Consumer") != "3" || got[0].field("Nats-Last-Stream") != "3" {
			t.Errorf("heartbeat %q", got[0].header)
		}
		if len(t.seen().settled) != 3 {
			t.Errorf("settled %v", t.seen().settled)
		}
	})
}

func TestPushFlowControl(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.bus.listen("d")
		t.start(api.ConsumerConfig{AckPolicy: api.AckNone, DeliverSubject: "d", FlowControl: true, Heartbeat: time.Second})
		big := strings.Repeat("x", 300<<10)
		for range 20 { // 6 MB into a window of 2 MB
			t.stream.add("a", big)
		}
		t.NewMessages()
		synctest.Wait()
		got := t.bus.take("d")
		var request string
		messages := 0
		for _, m := range got {
			if m.status() == "100 FlowControl Request" {
				if request != "" {
					t.Error("two open requests")
				}
				request = m.reply
			} else {
				messages++
			}
		}
		if !strings.HasPrefix(request, "$JS.FC.S.C.") || messages < 7 || messages > 8 {
			t.Fatalf("request %q after %d messages", request, messages)
		}
		t.after(time.Second)
		got = t.bus.take("d")
		t.want(got, "100 Idle Heartbeat")
		if stalled := got[0].field("Nats-Consumer-Stalled"); stalled != request {
			t.Errorf("stalled %q, want %q", stalled, request)
		}
		t.bus.send("$JS.FC.S.C.wrong", "", "")
		synctest.Wait()
		t.want(t.bus.take("d"))
		// The receiver answers every request from here on and gets the rest.
		for answers := 0; request != ""; answers++ {
			if answers > 10 {
				t.Fatal("no end")
			}
			t.bus.send(request, "", "")
			synctest.Wait()
			request = ""
			for _, m := range t.bus.take("d") {
				switch m.status() {
				case "100 FlowControl Request":
					request = m.reply
				case "":
					messages++
				}
			}
		}
		if messages != 20 {
			t.Errorf("%d messages, want 20", messages)
		}
	})
}

func TestPushHeartbeatOnlyWhenIdleAndActive(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.bus.listen("d")
		t.start(api.ConsumerConfig{AckPolicy: api.AckNone, DeliverSubject: "d", Heartbeat: time.Second})
		t.after(900 * time.Millisecond)
		t.publish("a")
		t.after(900 * time.Millisecond)
		t.want(t.bus.take("d"), "1")
		t.after(100 * time.Millisecond)
		t.want(t.bus.take("d"), "100 Idle Heartbeat")
		t.bus.ignore("d")
		t.after(10 * time.Second)
		t.bus.listen("d")
		t.after(1500 * time.Millisecond)
		t.want(t.bus.take("d"), "100 Idle Heartbeat")
	})
}

func TestPushRateLimit(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		t.bus.listen("d")
		t.make(api.ConsumerConfig{AckPolicy: api.AckNone, DeliverSubject: "d", RateLimit: 8 * 1000})
		t.cfg.MaxMsgBytes = 500
		t.rate.set(8*1000, 500)
		if _, err := t.Start(); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			t.stream.add("a", strings.Repeat("x", 200))
		}
		begin := time.Now()
		t.NewMessages()
		t.after(8 * time.Second)
		total := 0
		for _, m := range t.bus.take("d") {
			total += len(m.data) + len(m.subject) + len(m.reply)
			if most := 500 + int(m.at.Sub(begin).Seconds()*1000) + 1; total > most {
				t.Errorf("%d bytes after %v, want at most %d", total, m.at.Sub(begin), most)
			}
		}
		if total < 8000 {
			t.Errorf("%d bytes in 8 s at 1000 bytes/s", total)
		}
	})
}

func TestPushReplayOriginal(t *testing.T) {
	inBubble(t, 0, func(t *bench) {
		for range 3 {
			t.stream.add("a", "x")
			t.after(2 * time.Second)
		}
		t.bus.listen("d")
		t.start(api.ConsumerConfig{AckPolicy: api.AckNone, DeliverSubject: "d", ReplayPolicy: api.ReplayOriginal})
		begin := time.Now()
		t.after(10 * time.Second)
		got := t.bus.take("d")
		t.want(got, "1", "2", "3")
		for i, m := range got {
			if d := m.at.Sub(begin); d != time.Duration(2*i)*time.Second {
				t.Errorf("message %d after %v", i, d)
			}
		}
		t.publish("a") // caught up: at once
		t.want(t.bus.take("d"), "4")
	})
}

func TestPushUpdateOfDeliverSubject(t *testing.T) {
	inBubble(t, 2, func(t *bench) {
		t.bus.listen("d")
		t.bus.listen("e")
		t.start(api.ConsumerConfig{AckPolicy: api.AckExplicit, DeliverSubject: "d"})
		t.want(t.bus.take("d"), "1", "2")
		conf := t.Info().Config
		conf.DeliverSubject = "e"
		var err error = errTest
		t.Update(*conf, func(e error) { err = e })
		synctest.Wait()
		if err != nil {
			t.Fatal(err)
		}
		t.want(t.bus.take("e"), "1x2", "2x2")
		t.publish("a")
		t.want(t.bus.take("d"))
		t.want(t.bus.take("e"), "3")
	})
}
