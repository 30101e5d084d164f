package broker

import (
	"testing"
	"time"
)

// A route ends between the moment in which a request begins to wait for it and that in which it is known that nobody
// else has got it: the request is held as any other, and forgotten when others have it.
func TestMeshHoldsRequestsThatAreBeingParked(t *testing.T) {
	for _, offered := range []bool{true, false} {
		m, r := &mesh{}, &route{}
		a := &Account{}
		p := newParcel(a, "orders", &message{subject: []byte("orders"), reply: []byte("inbox")}, nil)
		r.parked = []parked{{parcel: p}}
		m.waiting.Add(1)
		m.take(r)
		if offered {
			p.state.Store(parcelOffered)
			p.asks = true
		}
		if len(m.held) != 1 || m.waiting.Load() != 1 {
			t.Fatalf("%d requests are held, %d wait", len(m.held), m.waiting.Load())
		}
		m.forget(p.since.Add(holdTime / 2))
		if len(m.held) != 1 {
			t.Fatal("it is forgotten")
		}
		m.forget(time.Now().Add(2 * holdTime))
		if want := map[bool]int{true: 1}[offered]; len(m.held) != want || m.heldBytes != int64(want)*p.bytes() {
			t.Errorf("offered %t: %d requests, %d bytes are held", offered, len(m.held), m.heldBytes)
		}
	}
}
