package journal

import (
	"testing"

	"millrace/storage/vfs"
)

// Close may come between the steps of run, while writes wait for company or a small segment was just
// found on a full disk: run goes on in both cases.
func TestRunGoesOnWhenClosedBetweenSteps(t *testing.T) {
	l, err := Open(Config{FS: vfs.NewMem(), Dir: "/j", Catalog: memCatalog{}, SegmentBytes: minSegmentBytes, Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	l.Append(Write{Group: 1, Entries: []Entry{{Index: 1, Term: 1}}})
	if did, err := l.writeStep(); did || err != nil {
		t.Fatalf("a write for which nobody waits was written, or %v", err)
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	if !l.awaitWrites() {
		t.Error("the log was closed with a write in the queue, and run ended")
	}
	if did, err := l.writeStep(); !did || err != nil {
		t.Errorf("the write was not written: %v", err)
	}
	if err := l.addSegment(minSegmentBytes, l.pace); err != nil {
		t.Fatal(err)
	}
	l.full, l.writer.busy = vfs.ErrNoSpace, true
	signal(l.wake)
	if !l.awaitWrites() {
		t.Error("run ended although there is a segment")
	}
	l.writer.busy = false
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A log that goes on after a Reset has queued entries with a gap between them. Both sides are readable.
func TestQueuedEntriesAreReadableAfterAReset(t *testing.T) {
	l, err := Open(Config{FS: vfs.NewMem(), Dir: "/j", Catalog: memCatalog{}, SegmentBytes: minSegmentBytes, Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	l.Append(Write{Group: 1, Entries: []Entry{{Index: 1, Term: 1, Data: []byte("one")}, {Index: 2, Term: 1, Data: []byte("two")}},
		State: &HardState{Term: 1, Commit: 2}})
	l.Append(Write{Group: 1, Snapshot: &Snapshot{Index: 10, Term: 1}, Reset: true})
	l.Append(Write{Group: 1, Entries: []Entry{{Index: 11, Term: 1, Data: []byte("eleven")}}, Done: func() {}})
	check := func(when string) {
		t.Helper()
		if entries, err := l.Entries(1, 11, 12, 1<<20); err != nil || len(entries) != 1 || string(entries[0].Data) != "eleven" {
			t.Errorf("%s: entry 11 is %v, %v", when, entries, err)
		}
		p := make([]byte, 3)
		if err := l.ReadAt(1, 2, 0, p); err != nil || string(p) != "two" {
			t.Errorf("%s: entry 2 holds %q, %v", when, p, err)
		}
	}
	check("queued")
	for l.Work() {
	}
	check("written")
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
