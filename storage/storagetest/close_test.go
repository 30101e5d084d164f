package storagetest

import (
	"testing"

	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// Close writes what nobody waits for, at whatever moment it comes.
func TestLogCloseWritesWhatIsQueued(t *testing.T) {
	for round := range uint64(300) {
		s := Store{FS: vfs.NewMem(), Dir: "/journal", Catalog: NewCatalog(1), small: true}
		l := s.open(t)
		for i := range round % 7 {
			l.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: i + 1, Term: 1}}})
		}
		wait(t, l)
		l.Append(journal.Write{Group: 2, Entries: []journal.Entry{{Index: 1, Term: 1}}})
		closeLog(t, l)
		l = s.open(t)
		if _, last := l.Bounds(2); last != 1 {
			t.Fatalf("round %d: the last write is not there", round)
		}
		closeLog(t, l)
	}
}
