package jetstream

import (
	"slices"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/stream"
)

// What a publish expects of its subject is held against a purge that is on its way, and what comes behind the publish
// does not overtake it.
func TestStreamDelaysWhatAPurgeDecides(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	acks := s.subscribe("ack.*")
	s.bus.Publish("S.a", "", nil, nil)
	s.bus.Publish("S.b", "", nil, nil)
	st, _ := s.engine.accounts["A"].stream("S")
	s.disk.holdBack()
	st.propose(purging(time.Now(), stream.Purge{Filter: "S.a"}), nil)
	s.bus.Publish("S.b", "ack.0", header(stream.HeaderExpectedSubjectSeq, "2"), nil) // the purge does not concern it
	s.bus.Publish("S.a", "ack.1", header(stream.HeaderExpectedSubjectSeq, "1"), nil)
	s.bus.Publish("S.a", "ack.2", nil, []byte("x"))
	s.bus.Publish("S.a", "ack.3", header(stream.HeaderExpectedSubjectSeq, "4"), nil)
	if got := acks.take(); len(got) > 0 {
		t.Fatalf("before the commit: %q", got)
	}
	s.disk.release()
	want := []string{
		`{"stream":"S","seq":3}`,
		`{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 0"},"stream":"S","seq":0}`,
		`{"stream":"S","seq":4}`, `{"stream":"S","seq":5}`,
	}
	got := acks.take()
	slices.Sort(got) // a refusal does not wait for what comes behind it
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("acks %q", got)
	}
	if n := st.delayedBytes; n != 0 || len(st.delayed) != 0 {
		t.Errorf("%d publishes, %d bytes are delayed still", len(st.delayed), n)
	}
}

// A purge that the group refuses decides nothing.
func TestStreamResumesWhenAPurgeIsRefused(t *testing.T) {
	s := newServer(t, newDisk())
	defer s.engine.Close()
	s.call("STREAM.CREATE.S", streamConfig("S"), nil)
	acks := s.subscribe("ack")
	s.bus.Publish("S.a", "", nil, nil)
	st, _ := s.engine.accounts["A"].stream("S")
	st.mu.Lock()
	st.pumping = true // somebody else is about to hand it over
	st.mu.Unlock()
	st.propose(purging(time.Now(), stream.Purge{}), nil)
	st.mu.Lock()
	p := st.nextLocked()
	st.inflight = append(st.inflight, p)
	st.mu.Unlock()
	s.bus.Publish("S.a", "ack", header(stream.HeaderExpectedSubjectSeq, "1"), nil)
	if got := acks.take(); len(got) > 0 {
		t.Fatalf("while the purge is on its way: %q", got)
	}
	st.mu.Lock()
	st.pumping = false
	tell := st.refuseLocked(p, errFull)
	resumed := st.resumeLocked()
	st.mu.Unlock()
	tell()
	resumed()
	st.pump()
	if got, want := acks.take(), []string{`{"stream":"S","seq":2}`}; !slices.Equal(got, want) {
		t.Errorf("acks %q", got)
	}
}
