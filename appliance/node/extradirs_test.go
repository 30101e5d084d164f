package node

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/storage/journal"
)

// The log of a store is spread over all its folders, and is whole again with all of them alone.
func TestStoreOnSeveralDisks(t *testing.T) {
	js := JetStream{StoreDir: t.TempDir(), ExtraDirs: []string{t.TempDir()}}
	// As if each folder were on a disk of its own.
	free := func(dir string) (int64, error) {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		return 1<<20 - int64(len(files)), err
	}
	open := func(js JetStream) (*store, error) {
		s := &store{free: free}
		err := s.open(js, slog.New(slog.DiscardHandler), func(err error) { t.Error(err) })
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		return s, nil
	}
	s, err := open(js)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, 1<<20)
	const entries = 80 // more than the first segment and the next one hold
	for i := range uint64(entries) {
		done := make(chan struct{})
		s.journal.Append(journal.Write{Group: 9, Entries: []journal.Entry{{Index: i + 1, Term: 1, Data: data}}, Done: func() { close(done) }})
		<-done
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(js.ExtraDirs, js.StoreDir) {
		files, err := filepath.Glob(filepath.Join(dir, "journal", "*.seg"))
		if err != nil || len(files) == 0 {
			t.Errorf("no segments in %s: %v", dir, err)
		}
	}

	if s, err = open(JetStream{StoreDir: js.StoreDir}); err == nil {
		s.close()
		t.Fatal("opened without the further folder")
	}
	if !strings.Contains(err.Error(), "the folder that was "+js.ExtraDirs[0]+" is not among them") {
		t.Errorf("without the further folder: %v", err)
	}
	missing := filepath.Join(t.TempDir(), "none")
	if s, err = open(JetStream{StoreDir: js.StoreDir, ExtraDirs: []string{missing}}); err == nil {
		s.close()
		t.Fatal("opened with a folder that is not there")
	}
	if !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("with a folder that is not there: %v", err)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("the folder was made")
	}

	// The disk is mounted elsewhere, and a further one is added; what is there in its place is empty.
	was, other, empty := js.ExtraDirs[0], filepath.Join(t.TempDir(), "moved"), t.TempDir()
	if err := os.Rename(was, other); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(was, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dirs := range [][]string{{was}, {was, empty}, nil} {
		if s, err = open(JetStream{StoreDir: js.StoreDir, ExtraDirs: dirs}); err == nil {
			s.close()
			t.Fatalf("opened with %q, which are empty", dirs)
		}
		if !strings.Contains(err.Error(), "mounted?") {
			t.Errorf("with empty folders: %v", err)
		}
		if list, err := os.ReadDir(was); err != nil || len(list) > 0 {
			t.Errorf("in the empty folder there is %v (error %v)", list, err)
		}
	}
	if s, err = open(JetStream{StoreDir: t.TempDir(), ExtraDirs: []string{other}}); err == nil {
		s.close()
		t.Fatal("another store took the folder")
	}
	if !strings.Contains(err.Error(), "belongs to another store") {
		t.Errorf("for another store: %v", err)
	}
	js.ExtraDirs = []string{empty, other}
	if s, err = open(js); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if first, last := s.journal.Bounds(9); first != 1 || last != entries {
		t.Errorf("entries %d to %d, want 1 to %d", first, last, entries)
	}
}
