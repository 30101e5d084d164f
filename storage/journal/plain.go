package journal

import "fmt"

// readPlain is read for a segment of version 1, whose batches stand in the file as they are.
func (r *batchReader) readPlain(off int64) (batch, error) {
	b, err := r.bytes(off, blockBytes)
	if err != nil {
		return batch{}, err
	}
	h, ok := decodeBatchHeader(b, r.seed)
	if !ok {
		return batch{}, &damage{off, "no valid batch header"}
	}
	padded := alignUp(int(h.length), blockBytes)
	if h.count == 0 || h.length < batchBytes+recordBytes || int64(padded) > r.size-off {
		return batch{}, &damage{off, fmt.Sprintf("batch %d has an impossible length", h.lsn)}
	}
	raw, err := r.bytes(off, padded)
	if err != nil {
		return batch{}, err
	}
	return r.decode(off, raw, h)
}

// tailPlain is tail for a segment of version 1, which was zero before it was written and has no
// checksum for each sector: a torn write is known by the zeros that it left.
func (r *batchReader) tailPlain(off int64, last link, mark uint64, stop *damage) (dirty int64, err error) {
	next := last.lsn + 1
	for at := off; at < r.size; at += blockBytes {
		b, err := r.bytes(at, blockBytes)
		if err != nil {
			return 0, err
		}
		if isZero(b) {
			continue
		}
		dirty = at + blockBytes
		if h, ok := decodeBatchHeader(b, r.seed); ok && h.lsn > next {
			return 0, &damage{stop.off, fmt.Sprintf("%s, but batch %d stands after it at offset %d",
				stop.reason, h.lsn, at)}
		}
	}
	if mark >= next {
		return 0, &damage{stop.off, fmt.Sprintf("%s, but batches up to %d were synced", stop.reason, mark)}
	}
	if dirty == 0 {
		return 0, nil
	}
	first, err := r.bytes(off, sectorBytes)
	if err != nil {
		return 0, err
	}
	if isZero(first) {
		return dirty, nil
	}
	h, ok := decodeBatchHeader(first, r.seed)
	if !ok || h.lsn != next || h.prev != last.crc || int64(h.length) > r.size-off {
		return 0, &damage{stop.off, stop.reason + ", and its first sector is not what a write leaves behind"}
	}
	for at := off; at < off+int64(h.length); at += sectorBytes {
		sector, err := r.bytes(at, sectorBytes)
		if err != nil {
			return 0, err
		}
		if isZero(sector) {
			return dirty, nil
		}
	}
	return 0, &damage{stop.off, stop.reason + ", and no sector of it is missing"}
}
