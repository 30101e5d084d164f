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

// segmentState is the life of a segment file in the manifest. A file is only ever deleted when the
// manifest says that it holds nothing (preparing) or nothing any more (dropped).
type segmentState uint8

const (
	statePreparing segmentState = 1 // being filled with zeros, holds no batch
	stateLive      segmentState = 2 // may hold batches
	stateDropped   segmentState = 3 // reclaimed; its links still prove that no batch is missing
)

// manifestRecord is a manifest value:
//
//	 0  1  version, 1
//	 1  1  state
//	 2  6  zero
//	 8  8  size of the file
//	16  8  salt
//	24  8  LSN of the batch before its first one, when dropped
//	32  8  LSN of its last batch, when dropped
//	40  4  header checksum of the batch before its first one, when dropped
//	44  4  header checksum of its last batch, when dropped
type manifestRecord struct {
	state        segmentState
	size         int64
	salt         uint64
	before, last link
}

const manifestBytes = 48

func (m manifestRecord) encode() []byte {
	b := make([]byte, manifestBytes)
	b[0], b[1] = 1, byte(m.state)
	le.PutUint64(b[8:], uint64(m.size))
	le.PutUint64(b[16:], m.salt)
	le.PutUint64(b[24:], m.before.lsn)
	le.PutUint64(b[32:], m.last.lsn)
	le.PutUint32(b[40:], m.before.crc)
	le.PutUint32(b[44:], m.last.crc)
	return b
}

func decodeManifestRecord(b []byte) (manifestRecord, error) {
	if len(b) != manifestBytes || b[0] != 1 {
		return manifestRecord{}, fmt.Errorf("manifest value of %d bytes is not of version 1", len(b))
	}
	m := manifestRecord{
		state:  segmentState(b[1]),
		size:   int64(le.Uint64(b[8:])),
		salt:   le.Uint64(b[16:]),
		before: link{le.Uint64(b[24:]), le.Uint32(b[40:])},
		last:   link{le.Uint64(b[32:]), le.Uint32(b[44:])},
	}
	if m.state < statePreparing || m.state > stateDropped {
		return manifestRecord{}, fmt.Errorf("manifest value has unknown state %d", m.state)
	}
	return m, nil
}

const segmentSuffix = ".seg"

// segmentPath is the path of a segment file.
func segmentPath(dir string, id uint32) string {
	return filepath.Join(dir, fmt.Sprintf("%010d%s", id, segmentSuffix))
}
