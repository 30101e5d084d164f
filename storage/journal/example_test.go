package journal_test

import (
	"fmt"
	"log"

	"millrace/storage/journal"
	"millrace/storage/storagetest"
	"millrace/storage/vfs"
)

// Append two entries and the vote of a group, wait until they are durable, and read them back after
// a restart.
func Example() {
	cfg := journal.Config{
		FS:           vfs.NewMem(), // vfs.OS{} for a real disk
		Dir:          "/var/lib/millrace/journal",
		Catalog:      storagetest.NewCatalog(1), // catalog.Open for a real one
		SegmentBytes: 1 << 20,
	}
	l, err := journal.Open(cfg)
	if err != nil {
		log.Fatal(err)
	}
	durable := make(chan struct{})
	l.Append(journal.Write{
		Group:   7,
		Entries: []journal.Entry{{Index: 1, Term: 1, Data: []byte("hello")}, {Index: 2, Term: 1, Data: []byte("again")}},
		State:   &journal.HardState{Term: 1, Vote: 1, Commit: 1},
		Done:    func() { close(durable) },
	})
	<-durable
	if err := l.Close(); err != nil {
		log.Fatal(err)
	}

	if l, err = journal.Open(cfg); err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	first, last := l.Bounds(7)
	entries, err := l.Entries(7, first, last+1, 1<<20)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range entries {
		fmt.Printf("%d: %s\n", e.Index, e.Data)
	}
	state, _ := l.State(7)
	fmt.Printf("term %d, commit %d\n", state.Term, state.Commit)
	// Output:
	// 1: hello
	// 2: again
	// term 1, commit 1
}
