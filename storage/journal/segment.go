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
	file *sectorFile
	refs atomic.Int64 // readers plus one for the log; the file is closed at zero
	// capacity is where the room for batches ends. When Open finds a segment of version 1, or one that
	// is not encrypted as Config says, it is its end, and writing goes on in another one.
	capacity int64

	// Owned by run.
	end    int64 // where the next batch goes
	marked uint64

	// Guarded by Log.mu.
	before, last link                 // as in span; last.lsn is 0 while the segment is empty
	used         int64                // end, for everyone else, with the room that the footer needs
	groups       map[uint64]*contents // what it holds, by group; its tables alone are in the footer
	foot         int                  // room of groups in a footer
	tables       *tables              // in the footer, once it is durable; nil: they are in groups
	sealing      *tables              // in the footer that is being written
	footer       span64               // the batch with the footer; zero without
	known        bool                 // the manifest names the footer
	damaged      bool                 // it is kept: something in it that is needed cannot be read
}

func newSegment(h header, file *sectorFile) *segment {
	s := &segment{
		header:   h,
		seed:     h.seed(),
		file:     file,
		capacity: file.logical(h.size),
		end:      dataOffset,
		used:     dataOffset,
		groups:   make(map[uint64]*contents),
	}
	s.refs.Store(1)
	return s
}

// physical returns the place of an offset in the segment's file, for messages.
func (s *segment) physical(off int64) int64 { return s.file.physical(off) }

// found takes over what a scan found in the segment.
func (s *segment) found(sp span, mark uint64) {
	s.end, s.used, s.marked = sp.end, sp.end, mark
	s.before, s.last = sp.before, sp.last
	if s.last.lsn != 0 {
		s.file.first = s.before.lsn + 1
	}
}

// release gives up a reference; the last one closes the file.
func (s *segment) release() error {
	if s.refs.Add(-1) > 0 {
		return nil
	}
	return s.file.Close()
}

// bulk reports whether the segment's batches are large in the mean. The caller holds Log.mu.
func (s *segment) bulk() bool {
	if s.last.lsn == 0 {
		return false
	}
	return (s.used-dataOffset)/int64(s.last.lsn-s.before.lsn) >= bulkBytes
}

// reader returns a batchReader of the segment.
func (s *segment) reader() *batchReader {
	return &batchReader{file: s.file, size: s.size, seed: s.seed}
}

// mark writes the evidence that batches up to lsn are durable, without a sync: it reaches the disk
// with the next sync or write-back, and until then only its help in telling torn from damaged is
// missing.
func (s *segment) mark(lsn uint64) error {
	var b [vfs.SectorBytes]byte
	encodeMark(b[:], s.seed, lsn)
	if _, err := s.file.raw.WriteAt(b[:], markOffset); err != nil {
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
func openSegment(fsys vfs.FS, dir string, id uint32, m manifestRecord, node uint64, k keys) (*segment, error) {
	name := segmentPath(dir, id)
	file, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptError{File: name, Reason: "the file is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("journal: open segment: %w", err)
	}
	h, err := checkHeader(file, id, m, node)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, closing(file))
	}
	c, err := k.segmentCipher(h)
	if err != nil {
		return nil, fmt.Errorf("open segment %s: %w; the data was left as it is%s", name, err, closing(file))
	}
	return newSegment(h, newSectorFile(h, file, c)), nil
}

// checkHeader reads the header of a file and checks that it is that of a segment of the manifest.
func checkHeader(file vfs.File, id uint32, m manifestRecord, node uint64) (header, error) {
	corrupt := func(off int64, format string, args ...any) (header, error) {
		return header{}, &CorruptError{File: file.Name(), Offset: off, Reason: fmt.Sprintf(format, args...)}
	}
	size, err := file.Size()
	if err != nil {
		return header{}, fmt.Errorf("journal: size of segment: %w", err)
	}
	if size != m.size {
		return corrupt(min(size, m.size), "the file has %d bytes instead of %d", size, m.size)
	}
	var b [headerBytes]byte
	if err := readFull(file, b[:], 0); err != nil {
		return header{}, fmt.Errorf("journal: read segment header: %w", err)
	}
	h, err := decodeHeader(b[:])
	if err != nil {
		return corrupt(0, "%v", err)
	}
	if h.node != node {
		return corrupt(40, "the segment belongs to node %016x, this is node %016x", h.node, node)
	}
	if h.id != id || h.size != size || h.salt != m.salt || h.identity != m.identity {
		return corrupt(16, "the segment is not the one that the catalog names")
	}
	return h, nil
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
