package storagetest

import (
	"bytes"
	"path/filepath"
	"testing"

	"millrace/storage/catalog"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

func TestLogInMemory(t *testing.T) {
	Suite(t, func(*testing.T) Store {
		return Store{FS: vfs.NewMem(), Dir: "/journal", Catalog: NewCatalog(1)}
	})
}

func TestLogOnDisk(t *testing.T) {
	t.Parallel()
	Suite(t, func(t *testing.T) Store {
		dir := t.TempDir()
		c, err := catalog.Open(filepath.Join(dir, "catalog.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return Store{FS: vfs.OS{}, Dir: filepath.Join(dir, "journal"), Catalog: c}
	})
}

// With the default sizes an entry of 16 MiB fits, although the first segment is smaller.
func TestLogHoldsSixteenMiB(t *testing.T) {
	s := Store{FS: vfs.OS{}, Dir: t.TempDir(), Catalog: NewCatalog(1)}
	for round := range uint64(2) {
		l, err := journal.Open(journal.Config{FS: s.FS, Dir: s.Dir, Catalog: s.Catalog})
		if err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte{1, 2, 3, byte(round)}, 4<<20)
		if err := l.Admit(len(data)); err != nil {
			t.Fatal(err)
		}
		l.Append(journal.Write{Group: 1, Entries: []journal.Entry{{Index: round + 1, Term: 1, Data: data}}})
		wait(t, l)
		got, err := l.Entries(1, round+1, round+2, 0)
		if err != nil || !bytes.Equal(got[0].Data, data) {
			t.Errorf("the entry is not read back: %v", err)
		}
		closeLog(t, l)
	}
}
