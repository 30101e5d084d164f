package stream

import (
	"fmt"

	"millrace/storage/index"
)

// Storage is where a machine keeps what it does not keep in the heap. The zero value keeps all in the
// heap, for machines whose log is replayed from its beginning or ends with the process.
type Storage struct {
	// Blocks stores the blocks of the message index; nil: in the heap.
	Blocks index.Blocks
	// Cache is shared by the machines of a node; nil: a small one of the machine's own.
	Cache *index.Cache
	// Snapshots says that states of [Machine.Snapshot] are stored which refer to Blocks. It needs
	// State.Release to be called, as blocks are deleted only then.
	Snapshots bool
	// Entries reads entries back to rebuild a damaged block; nil: the damage is reported.
	Entries Entries
}

// Entries calls yield for what a log still has of the entries from first to last, in order: with a
// whole entry and off 0, or with parts of one, each a run of those that [Machine.Live] names, and where it
// lies in the entry. It returns yield's error, or its own. It is called by queries, too, and
// by several goroutines at once.
type Entries func(first, last uint64, yield func(index uint64, off uint32, data []byte) error) error

// Place is where a message lies: Len bytes at Off of the entry at raft index Index.
type Place struct {
	Index    uint64
	Off, Len uint32
}

func place(m index.Message) Place { return Place{Index: m.Index, Off: m.Off, Len: m.Len} }

// newIndex returns the index of a machine.
func newIndex(s Storage) *index.Index {
	cfg := index.Config{Blocks: s.Blocks, Cache: s.Cache, Captured: s.Snapshots}
	if s.Entries != nil {
		cfg.Rebuild = rebuild(s.Entries)
	}
	return index.New(cfg)
}

// rebuild finds the messages of a block in the log.
func rebuild(entries Entries) index.Rebuild {
	return func(first, last, firstIndex, lastIndex uint64, yield func(index.Message, []byte) error) error {
		return entries(firstIndex, lastIndex, func(at uint64, off uint32, data []byte) error {
			begin := 0
			if off == 0 {
				h, err := decodeHead(data)
				if err != nil || h.kind != KindMessages {
					return err
				}
				begin = entryHeader
			}
			for begin < len(data) {
				var r record
				if err := checkRecord(data[begin:], &r); err != nil {
					return fmt.Errorf("entry %d at %d: %w", at, int(off)+begin, err)
				}
				if r.seq >= first && r.seq <= last && r.flags&flagNoInterest == 0 {
					m := index.Message{
						Seq: r.seq, Index: at, Off: off + uint32(begin), Len: r.size, Headers: len(r.header) > 0, Time: r.time,
					}
					if err := yield(m, r.subject); err != nil {
						return err
					}
				}
				begin += int(r.size)
			}
			return nil
		})
	}
}
