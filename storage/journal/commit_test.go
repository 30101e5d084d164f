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
