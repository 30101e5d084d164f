package jetstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/wire"
)

// A request that is sent once more, because its leader was not known yet, is carried out once, whichever of the two
// copies comes first.
func TestRequestSentAgainIsCarriedOutOnce(t *testing.T) {
	inRing(t, api.LimitsPolicy, func(r *ring) {
		a := r.nodes[0].engine.accounts["A"]
		in := r.listen("in")
		ask := func(header []byte) {
			a.request(Msg{Subject: []byte("$JS.API.STREAM.PURGE.S"), Reply: []byte("in"), Header: header})
			synctest.Wait()
		}
		for i, copies := range [][2][]byte{{nil, sentAgain(nil)}, {sentAgain(nil), nil}} {
			r.publish(1)
			ask(copies[0])
			r.publish(1)
			ask(copies[1])
			if want := fmt.Sprintf("[%d]", 2*i+2); r.nodes[0].stored() != want || len(in.take()) != 1 {
				r.Errorf("copies %q: stored %s, want %s and one answer", copies, r.nodes[0].stored(), want)
			}
			r.after(time.Minute)
		}
		for range 2 { // two requests with one reply
			ask(nil)
		}
		if n := len(in.take()); n != 2 {
			r.Errorf("%d answers to two requests", n)
		}
	})
}

func TestTakenForgets(t *testing.T) {
	var k taken
	for i := range 3 * takenRequests {
		for _, reply := range []string{fmt.Sprint(i), "same"} {
			if !k.first("s", reply, nil) {
				t.Fatalf("request %d is not taken", i)
			}
		}
	}
	if len(k.last) > takenRequests {
		t.Errorf("%d requests are remembered", len(k.last))
	}
	if k.first("s", "same", sentAgain(nil)) {
		t.Error("a copy is taken")
	}
	if h := sentAgain([]byte("NATS/1.0\r\nA: b\r\n\r\n")); string(wire.Header(h, "A")) != "b" || string(wire.Header(h, headerAgain)) != "1" {
		t.Errorf("header %q", h)
	}
}
