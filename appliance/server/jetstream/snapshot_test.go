package jetstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/stream"
)

// A stream that starts from a snapshot, whose entries are gone but for what it needs of them, is the one
// that was stopped: its messages, its duplicate window, its usage.
func TestStreamStartsFromASnapshot(t *testing.T) {
	s := newServer(t, newDisk())
	s.call("STREAM.CREATE.S", streamConfig("S", func(c *api.StreamConfig) { c.MaxMsgsPer = 2 }), nil)
	rnd := rand.New(rand.NewPCG(1, 2))
	payload := func(i int) []byte { return fmt.Appendf(nil, "message %d %0*d", i, i%300, 0) }
	const messages = 20_000 // some blocks of the index, and an open one
	for i := range messages {
		s.bus.Publish(fmt.Sprintf("S.%d", rnd.IntN(8000)), "", header(stream.HeaderMsgID, fmt.Sprint(i)), payload(i+1))
		if i == messages*3/4 {
			st, _ := s.engine.accounts["A"].stream("S")
			s.disk.snapshot(t, st.spec.Log)
			if len(s.disk.blobs[st.spec.Log]) == 0 {
				t.Fatal("the state refers to no objects")
			}
			s.disk.forget(t, st.spec.Log)
		}
	}
	before := s.call("STREAM.INFO.S", api.StreamInfoRequest{DeletedDetails: true}, nil)["state"]
	used := s.call("INFO", nil, nil)["storage"]
	s = s.restart()
	defer s.engine.Close()
	if after := s.call("STREAM.INFO.S", api.StreamInfoRequest{DeletedDetails: true}, nil)["state"]; fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("state after the restart %.300v, want %.300v", after, before)
	}
	if got := s.call("INFO", nil, nil)["storage"]; got != used {
		t.Errorf("usage after the restart %v, want %v", got, used)
	}
	n := 0
	err := s.engine.Local("A").Scan(t.Context(), "S", ">", func(m stream.Message) error {
		n++
		if want := payload(int(m.Seq)); string(m.Data) != string(want) {
			return fmt.Errorf("message %d is %.60q", m.Seq, m.Data)
		}
		return nil
	})
	if err != nil || n < 8000 {
		t.Errorf("%d messages read: %v", n, err)
	}
	acks := s.subscribe("ack")
	s.bus.Publish("S.1", "ack", header(stream.HeaderMsgID, "5"), nil)
	if got := acks.take(); !slices.Equal(got, []string{`{"stream":"S","seq":6,"duplicate":true}`}) {
		t.Errorf("duplicate of a message before the snapshot: %q", got)
	}
}

// A damaged block of the index is made anew from the entries while these are whole, and is an error of
// the calls that need it otherwise.
func TestStreamRebuildsADamagedIndexBlock(t *testing.T) {
	for _, whole := range []bool{true, false} {
		s := newServer(t, newDisk())
		s.call("STREAM.CREATE.S", streamConfig("S"), nil)
		const messages = 10_000
		for i := range messages {
			s.bus.Publish("S.a", "", nil, fmt.Append(nil, i+1))
		}
		st, _ := s.engine.accounts["A"].stream("S")
		s.disk.snapshot(t, st.spec.Log)
		if !whole {
			s.bus.Publish("S.a", "", nil, []byte("after"))
			s.call("STREAM.MSG.DELETE.S", api.MsgDeleteRequest{Seq: 9}, nil)
			s.disk.forget(t, st.spec.Log)
		}
		for _, b := range s.disk.blobs[st.spec.Log] {
			b[len(b)/2] ^= 1
		}
		s = s.restart()
		err := s.engine.Local("A").Scan(t.Context(), "S", ">", func(m stream.Message) error {
			if m.Seq <= messages && string(m.Data) != fmt.Sprint(m.Seq) {
				return fmt.Errorf("message %d is %q", m.Seq, m.Data)
			}
			return nil
		})
		if (err == nil) != whole || errors.Is(err, ErrNotStored) {
			t.Errorf("entries whole: %t, reading all: %v", whole, err)
		}
		s.engine.Close()
	}
}

// A purge of much asks for a snapshot, so that its space comes back.
func TestStreamAsksForASnapshotWhenMuchWasRemoved(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	for range snapshotAfter>>20 + 1 {
		s.bus.Publish("S.a", "", nil, make([]byte, 1<<20))
	}
	st, _ := s.engine.accounts["A"].stream("S")
	g := s.disk.groups[st.spec.Log]
	if g.asked != 0 {
		t.Errorf("asked for %d snapshots before anything was removed", g.asked)
	}
	s.call("STREAM.PURGE.S", nil, nil)
	if g.asked != 1 {
		t.Errorf("asked for %d snapshots after the purge", g.asked)
	}
}
