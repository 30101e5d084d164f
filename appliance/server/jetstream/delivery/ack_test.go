package delivery

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
)

func TestAckVerbs(t *testing.T) {
	inBubble(t, 8, func(t *bench) {
		t.start(explicit)
		got := t.pull("in", "6")
		t.ack(got[0], "+OK")
		t.ack(got[1], "-NAK")
		t.ack(got[2], `-NAK {"delay":2000000000}`)
		t.ack(got[3], "-NAK 3s")
		t.ack(got[4], "+TERM  no good ")
		t.after(20 * time.Second)
		t.ack(got[5], "+WPI")
		t.want(t.pull("in", `{"batch":9,"no_wait":true}`), "2x2", "3x2", "4x2", "7", "8", "404 No Messages")
		t.after(20 * time.Second) // 6 was put off, the others are not due yet
		t.want(t.pull("in", `{"batch":9,"no_wait":true}`), "404 No Messages")
		t.after(10 * time.Second)
		t.want(t.pull("in", `{"batch":9,"no_wait":true}`), "2x3", "3x3", "4x3", "6x2", "7x2", "8x2", "404 No Messages")
		if n := t.Info().NumRedelivered; n != 6 {
			t.Errorf("%d redelivered, want 6", n)
		}
	})
}

func TestAckNextPulls(t *testing.T) {
	inBubble(t, 4, func(t *bench) {
		t.start(explicit)
		got := t.pull("in", "1")
		t.bus.send(got[0].reply, "in", "+NXT")
		synctest.Wait()
		got = t.bus.take("in")
		t.want(got, "2")
		t.bus.send(got[0].reply, "in", `+NXT {"batch":9,"no_wait":true}`)
		synctest.Wait()
		t.want(t.bus.take("in"), "3", "4", "404 No Messages")
		if n := t.Info().AckFloor.Stream; n != 2 {
			t.Errorf("ack floor %d, want 2", n)
		}
	})
}

func TestAckAllCoversEverythingBefore(t *testing.T) {
	inBubble(t, 6, func(t *bench) {
		t.start(api.ConsumerConfig{AckPolicy: api.AckAll})
		got := t.pull("in", "5")
		t.ack(got[3], "")
		info := t.Info()
		if info.NumAckPending != 1 || info.AckFloor.Stream != 4 {
			t.Errorf("info %+v", info)
		}
		t.after(time.Second)
		if fmt.Sprint(t.seen().settled) != "[1 2 3 4]" {
			t.Errorf("settled %v", t.seen().settled)
		}
	})
}

func TestMaxAckPendingStopsDelivery(t *testing.T) {
	inBubble(t, 9, func(t *bench) {
		conf := explicit
		conf.MaxAckPending = 3
		t.start(conf)
		got := t.pull("in", "9")
		t.want(got, "1", "2", "3")
		t.publish("a")
		t.want(t.bus.take("in"))
		t.ack(got[1], "")
		t.want(t.bus.take("in"), "4")
		t.after(30 * time.Second) // redelivery is not stopped
		t.want(t.bus.take("in"), "1x2", "3x2", "4x2")
	})
}

// A double ack is answered after the commit and not before.
func TestDoubleAckWaitsForCommit(t *testing.T) {
	inBubble(t, 3, func(t *bench) {
		t.log.manual = true
		t.start(explicit)
		got := t.pull("in", "3")
		t.bus.listen("ok")
		t.bus.send(got[0].reply, "ok", "")
		t.after(time.Minute)
		if n := len(t.bus.take("ok")); n != 0 || len(t.seen().settled) != 0 {
			t.Fatalf("%d answers and settled %v before the commit", n, t.seen().settled)
		}
		t.bus.send(got[0].reply, "ok", "") // again: nothing new, but it waits as well
		synctest.Wait()
		if n := len(t.bus.take("ok")); n != 0 {
			t.Fatalf("%d answers to the second before the commit", n)
		}
		t.log.commit()
		synctest.Wait()
		if list := t.bus.take("ok"); len(list) != 2 || list[0].data != "" || list[0].header != "" {
			t.Errorf("answers %+v", list)
		}
		if fmt.Sprint(t.seen().settled) != "[1]" {
			t.Errorf("settled %v", t.seen().settled)
		}
		t.bus.send(got[0].reply, "ok", "") // nothing is open: a commit tells that the log is still led from here
		synctest.Wait()
		if n := len(t.bus.take("ok")); n != 0 {
			t.Errorf("%d answers to an ack of what is committed, before the leadership is confirmed", n)
		}
		t.log.commit()
		synctest.Wait()
		if n := len(t.bus.take("ok")); n != 1 {
			t.Errorf("%d answers to an ack of what is committed", n)
		}
		t.bus.send("$JS.ACK.S.C.1.99.99.1.0", "ok", "") // never delivered
		synctest.Wait()
		if n := len(t.bus.take("ok")); n != 0 {
			t.Errorf("%d answers to an ack of what was not delivered", n)
		}
	})
}

func TestRedeliveryBackOffAndMaxDeliver(t *testing.T) {
	inBubble(t, 1, func(t *bench) {
		conf := explicit
		conf.BackOff = []time.Duration{time.Second, 5 * time.Second}
		conf.MaxDeliver = 3
		t.start(conf)
		const advisory = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.S.C"
		t.bus.listen(advisory)
		begin := time.Now()
		t.want(t.pull("in", "9"), "1")
		t.after(30 * time.Second)
		got := t.bus.take("in")
		t.want(got, "1x2", "1x3")
		if a, b := got[0].at.Sub(begin), got[1].at.Sub(begin); a != time.Second || b != 6*time.Second {
			t.Errorf("redelivered after %v and %v", a, b)
		}
		events := t.bus.take(advisory)
		if len(events) != 1 {
			t.Fatalf("%d advisories", len(events))
		}
		var event struct {
			Type, ID, Stream, Consumer string
			StreamSeq                  uint64 `json:"stream_seq"`
			Deliveries                 uint64
		}
		if err := json.Unmarshal([]byte(events[0].data), &event); err != nil {
			t.Fatal(err)
		}
		if event.Type != "io.nats.jetstream.advisory.v1.max_deliver" || len(event.ID) != 22 || event.StreamSeq != 1 ||
			event.Deliveries != 3 || event.Stream != "S" || event.Consumer != "C" {
			t.Errorf("advisory %s", events[0].data)
		}
		if at := events[0].at.Sub(begin); at != 11*time.Second {
			t.Errorf("advisory after %v", at)
		}
		info := t.Info()
		if info.NumAckPending != 0 || info.NumRedelivered != 1 || !t.Needs(1, "a") {
			t.Errorf("needs %t, info %+v", t.Needs(1, "a"), info)
		}
		t.ack(got[1], "") // late, and still good
		t.after(time.Second)
		if t.Needs(1, "a") || fmt.Sprint(t.seen().settled) != "[1]" {
			t.Errorf("needs %t, settled %v", t.Needs(1, "a"), t.seen().settled)
		}
	})
}

func TestAdvisories(t *testing.T) {
	inBubble(t, 3, func(t *bench) {
		conf := explicit
		conf.SampleFrequency = "100%"
		t.start(conf)
		subjects := map[string]string{
			"$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.S.C":      `"type":"io.nats.jetstream.advisory.v1.nak"`,
			"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.C": `"type":"io.nats.jetstream.advisory.v1.terminated"`,
			"$JS.EVENT.METRIC.CONSUMER.ACK.S.C":              `"type":"io.nats.jetstream.metric.v1.consumer_ack"`,
		}
		for s := range subjects {
			t.bus.listen(s)
		}
		got := t.pull("in", "3")
		t.after(2 * time.Second)
		t.ack(got[0], "")
		t.ack(got[1], "-NAK 1h")
		t.ack(got[2], "+TERM why")
		for s, kind := range subjects {
			events := t.bus.take(s)
			if len(events) != 1 {
				t.Fatalf("%s: %d events", s, len(events))
			}
			var fields map[string]any
			if err := json.Unmarshal([]byte(events[0].data), &fields); err != nil {
				t.Fatal(err)
			}
			if `"type":"`+fields["type"].(string)+`"` != kind || fields["deliveries"] != 1.0 || fields["consumer_seq"] != fields["stream_seq"] {
				t.Errorf("%s: %s", s, events[0].data)
			}
			if took, ok := fields["ack_time"]; ok && took != 2e9 {
				t.Errorf("ack time %v", took)
			}
			if why, ok := fields["reason"]; ok && why != "why" {
				t.Errorf("reason %v", why)
			}
		}
	})
}

func TestParseAckDoesNotAllocate(t *testing.T) {
	tail, verb := []byte("1.22.33.1700000000000000000.4"), []byte("+ACK")
	if n := testing.AllocsPerRun(100, func() { parseAck(tail, verb) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	a, ok := parseAck(tail, verb)
	if !ok || a.count != 1 || a.seq != 22 || a.dseq != 33 {
		t.Errorf("parsed %+v, %t", a, ok)
	}
}

func FuzzParseAck(f *testing.F) {
	f.Add([]byte("1.2.3.4.5"), []byte(""))
	f.Add([]byte("1.2.3.4.5"), []byte("+NXT 5"))
	f.Add([]byte("1.2.3.4.5"), []byte(`-NAK {"delay": 5}`))
	f.Add([]byte("1.2.3.4.5"), []byte("-NAK 10s"))
	f.Add([]byte("1.2.3.4.5"), []byte("+TERM because"))
	f.Add([]byte("1.2.3.4"), []byte("+WPI"))
	f.Add([]byte("99999999999999999999.2.3.4.5.6"), []byte("+OK"))
	f.Fuzz(func(t *testing.T, tail, verb []byte) {
		a, ok := parseAck(tail, verb)
		if !ok {
			return
		}
		if a.seq == 0 || a.delay < 0 || a.delay > maxNakDelay || a.kind >= ackBarrier {
			t.Errorf("parsed %+v", a)
		}
		again := appendAckSubject(nil, "", a.count, a.seq, a.dseq, time.Unix(0, 1), 0)
		if b, ok := parseAck(again, verb); !ok || b.seq != a.seq || b.dseq != a.dseq || b.count != a.count {
			t.Errorf("%q: parsed %+v and %+v", again, a, b)
		}
	})
}

func FuzzParsePull(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("17"))
	f.Add([]byte(`{"batch":5,"expires":1000,"no_wait":true,"max_bytes":7,"idle_heartbeat":10}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parsePull(data)
		if err == nil && r.Heartbeat > 0 && r.Heartbeat*2 > r.Expires {
			t.Errorf("%q: heartbeat %v, expires %v", data, r.Heartbeat, r.Expires)
		}
	})
}
