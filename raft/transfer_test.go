package raft

import (
	"slices"
	"testing"
)

// prefetching notes what it is told to read, and to forget.
type prefetching struct {
	SnapshotStore
	asked, forgotten []uint64
}

func (p *prefetching) Prefetch(_, index uint64, _ int64) func() {
	p.asked = append(p.asked, index)
	return func() { p.forgotten = append(p.forgotten, index) }
}

// A transfer asks for what comes ahead of what it reads, and gives up the memory of what it has read: not of the last two
// ranges that it asked for, which overlap with what is still to be read.
func TestTransferReadsAheadAndForgets(t *testing.T) {
	store := &prefetching{}
	s := &sending{g: &Group{host: &Host{snapshots: store}}}
	const piece = prefetchBytes / 8
	for i := range uint64(18) {
		s.prefetch(i+1, piece)
	}
	if want := []uint64{1, 5, 9, 13, 17}; !slices.Equal(store.asked, want) {
		t.Errorf("asked at pieces %v, want %v", store.asked, want)
	}
	if want := []uint64{1, 5, 9}; !slices.Equal(store.forgotten, want) {
		t.Errorf("forgot those asked for at %v, want %v", store.forgotten, want)
	}
}
