package journal

import (
	"fmt"
	"path/filepath"
)

// Catalog keeps the journal's manifest: which segment files there are and whether they hold
// anything. Values are the journal's own; the catalog checks that they come back unchanged. Methods
// return after the change is durable, may block, and are called by one goroutine at a time, without
// locks. They keep no slice.
type Catalog interface {
	// NodeID is the identity of the node, the same for ever.
	NodeID() uint64
	// Segments returns all values by segment number.
	Segments() (map[uint32][]byte, error)
	// PutSegment stores the value of a segment.
	PutSegment(id uint32, value []byte) error
	// DeleteSegment removes the value of a segment.
	DeleteSegment(id uint32) error
}

// segmentState is the life of a segment in the manifest. A file is only ever deleted or used again
// when the manifest says that it holds nothing (preparing) or nothing any more (dropped, spare).
type segmentState uint8

const (
	statePreparing segmentState = 1 // being filled with zeros or made of a spare, holds no batch
	stateLive      segmentState = 2 // may hold batches
	stateDropped   segmentState = 3 // reclaimed; its links still prove that no batch is missing
	stateSpare     segmentState = 4 // as dropped, and its file, renamed, is kept for a later segment
)

// manifestRecord is a manifest value:
//
//	 0  1  version: 3 with a footer, else 2
//	 1  1  state
//	 2  6  zero
//	 8  8  size of the file
//	16  8  salt
//	24  8  LSN of the batch before its first one, when dropped or spare, or with a footer
//	32  8  LSN of its last batch, likewise
//	40  4  header checksum of the batch before its first one, likewise
//	44  4  header checksum of its last batch, likewise
//	48  8  identity of the file
//	56  8  version 3: offset of the batch with the footer, its last one, not counting trailers of sectors
//	64  8  version 3: length of that batch with its padding, likewise
//
// Version 1 ends before the identity; the file has format version 1.
type manifestRecord struct {
	state        segmentState
	size         int64
	salt         uint64
	before, last link
	identity     uint64
	foot         span64 // of the batch with the footer; zero without
}

// span64 is a range of bytes of a segment.
type span64 struct{ off, length int64 }

const (
	manifestBytes  = 56
	manifestBytes1 = 48
	manifestBytes3 = 72
)

// gone reports whether the segment is reclaimed.
func (m manifestRecord) gone() bool { return m.state == stateDropped || m.state == stateSpare }

func (m manifestRecord) encode() []byte {
	b := make([]byte, manifestBytes)
	b[0], b[1] = 2, byte(m.state)
	le.PutUint64(b[8:], uint64(m.size))
	le.PutUint64(b[16:], m.salt)
	le.PutUint64(b[24:], m.before.lsn)
	le.PutUint64(b[32:], m.last.lsn)
	le.PutUint32(b[40:], m.before.crc)
	le.PutUint32(b[44:], m.last.crc)
	le.PutUint64(b[48:], m.identity)
	if m.foot != (span64{}) {
		b[0] = 3
		b = le.AppendUint64(b, uint64(m.foot.off))
		b = le.AppendUint64(b, uint64(m.foot.length))
	}
	return b
}

func decodeManifestRecord(b []byte) (manifestRecord, error) {
	if len(b) == 0 || b[0] > 3 || len(b) != [...]int{0, manifestBytes1, manifestBytes, manifestBytes3}[b[0]] {
		return manifestRecord{}, fmt.Errorf("manifest value of %d bytes is not of version 1, 2 or 3", len(b))
	}
	m := manifestRecord{
		state:  segmentState(b[1]),
		size:   int64(le.Uint64(b[8:])),
		salt:   le.Uint64(b[16:]),
		before: link{le.Uint64(b[24:]), le.Uint32(b[40:])},
		last:   link{le.Uint64(b[32:]), le.Uint32(b[44:])},
	}
	if b[0] >= 2 {
		m.identity = le.Uint64(b[48:])
	}
	if b[0] == 3 {
		m.foot = span64{int64(le.Uint64(b[56:])), int64(le.Uint64(b[64:]))}
	}
	if m.state < statePreparing || m.state > stateSpare {
		return manifestRecord{}, fmt.Errorf("manifest value has unknown state %d", m.state)
	}
	return m, nil
}

const (
	segmentSuffix = ".seg"
	spareSuffix   = ".spare"
)

// segmentPath is the path of a segment file.
func segmentPath(dir string, id uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", id, segmentSuffix))
}

// sparePath is the path of the file of a segment that is a spare.
func sparePath(dir string, id uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", id, spareSuffix))
}
