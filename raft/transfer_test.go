package raft

import "testing"

// bulky is a store with a way of its own to read much.
type bulky struct {
	SnapshotStore
	asked []uint64 // groups
	read  int      // bytes
}

func (b *bulky) Bulk(group uint64) func(index uint64, off int, p []byte) error {
	b.asked = append(b.asked, group)
	return func(_ uint64, _ int, p []byte) error {
		b.read += len(p)
		return nil
	}
}

// A transfer reads all entries by one reader of the store's, if the store has such.
func TestTransferReadsInBulk(t *testing.T) {
	store := &bulky{}
	s := &sending{g: &Group{log: 7, host: &Host{snapshots: store}}}
	for i := range uint64(10) {
		if err := s.readEntry(i+1, 0, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if len(store.asked) != 1 || store.asked[0] != 7 || store.read != 1000 {
		t.Errorf("readers for groups %v were asked for, and read %d bytes; want one for 7, and 1000", store.asked, store.read)
	}
}
