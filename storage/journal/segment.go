package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"millrace/storage/vfs"
)

// segment is one segment file.
type segment struct {
	header
	seed uint32
	file vfs.File
	refs atomic.Int64 // readers plus one for the log; the file is closed at zero

	// Owned by run.
	end    int64 // where the next batch goes
	marked uint64

	// Guarded by Log.mu.
	before, last link              // as in span; last.lsn is 0 while the segment is empty
	used         int64             // end, for everyone else
	groups       map[uint64]uint64 // per group with records here, the highest entry index here
}

func newSegment(h header, file vfs.File) *segment {
	s := &segment{
		header: h,
		seed:   h.seed(),
		file:   file,
		end:    dataOffset,
		used:   dataOffset,
		groups: make(map[uint64]uint64),
	}
	s.refs.Store(1)
	return s
}

// release gives up a reference; the last one closes the file.
func (s *segment) release() error {
	if s.refs.Add(-1) > 0 {
		return nil
	}
	return s.file.Close()
}

// noteLocked accounts for a record of a group.
func (s *segment) noteLocked(group, index uint64) {
	if high, ok := s.groups[group]; !ok || index > high {
		s.groups[group] = index
	}
}

// reader returns a batchReader of the segment.
func (s *segment) reader() *batchReader {
	return &batchReader{src: s.file, size: s.size, seed: s.seed}
}

// mark writes the evidence that batches up to lsn are durable, without a sync: it reaches the disk
// with the next sync or write-back, and until then only its help in telling torn from damaged is
// missing.
func (s *segment) mark(lsn uint64) error {
	var b [vfs.SectorBytes]byte
	encodeMark(b[:], s.seed, lsn)
	if _, err := s.file.WriteAt(b[:], markOffset); err != nil {
		return fmt.Errorf("write mark of %s: %w", s.file.Name(), err)
	}
	s.marked = lsn
	return nil
}

// readMark returns the LSN of the mark, 0 for none.
func (s *segment) readMark() (lsn uint64, ok bool, err error) {
	var b [markBytes]byte
	if err := readFull(s.file, b[:], markOffset); err != nil {
		return 0, false, err
	}
	lsn, ok = decodeMark(b[:], s.seed)
	return lsn, ok, nil
}

// openSegment opens a file of the manifest and checks that it is the file that was made.
func openSegment(fsys vfs.FS, dir string, id uint32, m manifestRecord, node uint64) (*segment, error) {
	name := segmentPath(dir, id)
	file, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptError{File: name, Reason: "the file is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("journal: open segment: %w", err)
	}
	s, err := checkSegment(file, id, m, node)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, closing(file))
	}
	return s, nil
}

func checkSegment(file vfs.File, id uint32, m manifestRecord, node uint64) (*segment, error) {
	corrupt := func(off int64, format string, args ...any) error {
		return &CorruptError{File: file.Name(), Offset: off, Reason: fmt.Sprintf(format, args...)}
	}
	size, err := file.Size()
	if err != nil {
		return nil, fmt.Errorf("journal: size of segment: %w", err)
	}
	if size != m.size {
		return nil, corrupt(min(size, m.size), "the file has %d bytes instead of %d", size, m.size)
	}
	var b [headerBytes]byte
	if err := readFull(file, b[:], 0); err != nil {
		return nil, fmt.Errorf("journal: read segment header: %w", err)
	}
	h, err := decodeHeader(b[:])
	if err != nil {
		return nil, corrupt(0, "%v", err)
	}
	if h.node != node {
		return nil, corrupt(40, "the segment belongs to node %016x, this is node %016x", h.node, node)
	}
	if h.id != id || h.size != size || h.salt != m.salt {
		return nil, corrupt(16, "the segment is not the one that the catalog names")
	}
	return newSegment(h, file), nil
}

// closing closes a file that turned out useless and returns what to add to the error that says why.
func closing(file io.Closer) string {
	if err := file.Close(); err != nil {
		return fmt.Sprintf(" (and on closing: %v)", err)
	}
	return ""
}

// readFull fills p from off.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
