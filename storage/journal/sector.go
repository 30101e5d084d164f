package journal

import (
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"golang.org/x/crypto/xts"

	"millrace/storage/vfs"
)

const (
	sectorBytes  = vfs.SectorBytes
	trailerBytes = 16
	// contentBytes is what a sector holds of the batches.
	contentBytes = sectorBytes - trailerBytes
	// blockContent is what a block holds of them.
	blockContent = blockBytes / sectorBytes * contentBytes
	// readSectors is how many sectors a sectorReader reads at once.
	readSectors = 256
)

// sectorFile is a segment file as one contiguous range of bytes: the two blocks at its start, and
// behind them the contents of the sectors without their trailers. Offsets are those of this range,
// unless they are called physical. A file of format version 1 has no sectors: it is read as it is.
// All methods but write may be called concurrently.
//
//  1. A byte behind the first two blocks that ReadAt returns was written to this place of this file
//     by a batch of the segment: the sector's checksum says so.
//  2. A sector is written once in each life of the file.
type sectorFile struct {
	raw     vfs.File
	version uint32
	seed    uint32      // of the file's identity
	cipher  *xts.Cipher // nil: contents are not encrypted
	// first is the LSN of the segment's first batch, 0 while it has none. A sector with a smaller one
	// is of an earlier life, and what should stand there was lost. Set before a place in the segment
	// is known to anybody.
	first uint64
}

func newSectorFile(h header, raw vfs.File, c *xts.Cipher) *sectorFile {
	return &sectorFile{raw: raw, version: h.version, seed: h.fileSeed(), cipher: c}
}

// Name is the path of the file.
func (f *sectorFile) Name() string { return f.raw.Name() }

// Close closes the file.
func (f *sectorFile) Close() error { return f.raw.Close() }

// SyncData makes what was written durable.
func (f *sectorFile) SyncData() error { return f.raw.SyncData() }

// block is how many bytes of the range a block of the file holds.
func (f *sectorFile) block() int {
	if f.version == version1 {
		return blockBytes
	}
	return blockContent
}

// padded is the room that a batch of n bytes takes: a batch fills whole blocks.
func (f *sectorFile) padded(n int) int { return (n + f.block() - 1) / f.block() * f.block() }

// physical returns the place of an offset in the file.
func (f *sectorFile) physical(off int64) int64 {
	if f.version == version1 || off < dataOffset {
		return off
	}
	off -= dataOffset
	return dataOffset + off/contentBytes*sectorBytes + off%contentBytes
}

// logical returns the offset of the first content byte at or after the start of a sector at a
// physical offset.
func (f *sectorFile) logical(at int64) int64 {
	if f.version == version1 || at < dataOffset {
		return at
	}
	return dataOffset + (at-dataOffset)/sectorBytes*contentBytes
}

// sectorSum is the checksum of a sector: over its number in the file, content and LSN, from the seed
// of the file. The number goes in by table, as a slice of it would be an allocation.
func sectorSum(seed, number uint32, b []byte) uint32 {
	crc := ^seed
	for range 4 {
		crc = castagnoli[byte(crc)^byte(number)] ^ crc>>8
		number >>= 8
	}
	return crc32.Update(^crc, castagnoli, b[:contentBytes+8])
}

// check reports whether b, read at a physical offset, is a sector that was written there, and by
// which batch.
func (f *sectorFile) check(b []byte, at int64) (lsn uint64, ok bool) {
	lsn = le.Uint64(b[contentBytes:])
	ok = lsn != 0 && le.Uint32(b[contentBytes+12:]) == 0 &&
		sectorSum(f.seed, uint32(at/sectorBytes), b) == le.Uint32(b[contentBytes+8:])
	return lsn, ok
}

// open copies the content of a checked sector to dst, decrypted.
func (f *sectorFile) open(dst, b []byte, at int64) {
	if f.cipher != nil {
		f.cipher.Decrypt(dst, b[:contentBytes], uint64(at/sectorBytes))
		return
	}
	copy(dst, b[:contentBytes])
}

// ReadAt fills p from off on. Every sector that it touches is checked: a *CorruptError names the
// physical offset of one that is not what was written. Reads of the first two blocks are not
// checked here.
func (f *sectorFile) ReadAt(p []byte, off int64) (int, error) {
	r := f.reader(off + int64(len(p)))
	defer r.close()
	return r.ReadAt(p, off)
}

// sectorReader reads parts of a sectorFile that ascend and do not overlap. It reads the file in large pieces, and checks no
// sectors but those of the parts.
type sectorReader struct {
	*sectorFile
	end   int64 // it reads up to here, physical
	buf   *[readSectors * sectorBytes]byte
	ahead func(at int64) []byte // sectors from a physical offset on that were read already, or none; may be nil
	at    int64                 // place of what was read last, physical
	last  []byte                // that: in buf, or got from ahead
	next  int64                 // end of the sector in last that was checked last, and decrypted
}

// scratch holds buffers of sectorReaders.
var scratch = sync.Pool{New: func() any { return new([readSectors * sectorBytes]byte) }}

// reader returns a reader of what stands before end. It is to be closed.
func (f *sectorFile) reader(end int64) sectorReader {
	return sectorReader{sectorFile: f, end: f.physical(end-1)/sectorBytes*sectorBytes + sectorBytes,
		buf: scratch.Get().(*[readSectors * sectorBytes]byte)}
}

func (r *sectorReader) close() { scratch.Put(r.buf) }

// ReadAt is as that of the sectorFile.
func (r *sectorReader) ReadAt(p []byte, off int64) (int, error) {
	if r.version == version1 || off < dataOffset {
		return r.raw.ReadAt(p, off)
	}
	done := 0
	skip := int((off - dataOffset) % contentBytes)
	for at := r.physical(off) - int64(skip); done < len(p); at += sectorBytes {
		b, err := r.sector(at)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], b[skip:])
		skip = 0
	}
	return done, nil
}

// sector returns the content of the sector at a physical offset.
func (r *sectorReader) sector(at int64) ([]byte, error) {
	if at >= r.at+int64(len(r.last)) {
		if err := r.read(at); err != nil {
			r.last = nil
			return nil, err
		}
	}
	b := r.last[at-r.at:][:sectorBytes]
	if at >= r.next {
		if err := r.verify(b, at); err != nil {
			return nil, err
		}
		if r.cipher != nil {
			r.open(b, b, at)
		}
		r.next = at + sectorBytes
	}
	return b[:contentBytes], nil
}

// read gets the sectors from a physical offset on.
func (r *sectorReader) read(at int64) error {
	r.at, r.next = at, at
	r.last = r.buf[:min(r.end-at, int64(len(r.buf)))]
	if r.ahead != nil {
		if have := r.ahead(at); len(have) > 0 {
			if r.cipher == nil {
				r.last = have
			} else { // it may be asked for again, and will be decrypted where it stands
				r.last = r.last[:copy(r.last, have)]
			}
			return nil
		}
	}
	err := readFull(r.raw, r.last, at)
	switch {
	case err == io.ErrUnexpectedEOF:
		return io.EOF
	case vfs.IsUnreadable(err):
		return &CorruptError{File: r.Name(), Offset: at, Reason: fmt.Sprintf("the disk cannot read all of %d bytes: %v", len(r.last), err)}
	}
	return err
}

// verify tells what is wrong with a sector that should hold a part of a batch.
func (f *sectorFile) verify(b []byte, at int64) error {
	lsn, ok := f.check(b, at)
	reason := ""
	switch {
	case ok && lsn >= f.first:
		return nil
	case ok:
		reason = fmt.Sprintf("the sector is of batch %d from before the segment, what was written over it is lost", lsn)
	case isZero(b):
		reason = "the sector is zero, what was written there is lost"
	default:
		reason = "the sector has a wrong checksum"
	}
	return &CorruptError{File: f.Name(), Offset: at, Reason: reason}
}

// spread puts p behind the first n bytes of content in buf, which is sectors without their trailers, and returns how
// many there are then.
func spread(buf []byte, n int, p []byte) int {
	for at, skip := n/contentBytes*sectorBytes, n%contentBytes; len(p) > 0; at, skip = at+sectorBytes, 0 {
		c := copy(buf[at+skip:at+contentBytes], p)
		n, p = n+c, p[c:]
	}
	return n
}

// seal turns the sectors of buf, which hold their content, into those that batch lsn writes at a physical offset:
// it encrypts them, and writes their trailers.
func (f *sectorFile) seal(buf []byte, at int64, lsn uint64) {
	if half := len(buf) / 2 &^ (sectorBytes - 1); f.cipher != nil && len(buf) >= bothBytes {
		both(func() { f.sealPart(buf[half:], at+int64(half), lsn) }, func() { f.sealPart(buf[:half], at, lsn) })
		return
	}
	f.sealPart(buf, at, lsn)
}

func (f *sectorFile) sealPart(buf []byte, at int64, lsn uint64) {
	for number := uint32(at / sectorBytes); len(buf) > 0; number++ {
		b := buf[:sectorBytes]
		if f.cipher != nil {
			f.cipher.Encrypt(b[:contentBytes], b[:contentBytes], uint64(number))
		}
		le.PutUint64(b[contentBytes:], lsn)
		le.PutUint32(b[contentBytes+8:], sectorSum(f.seed, number, b))
		le.PutUint32(b[contentBytes+12:], 0)
		buf = buf[sectorBytes:]
	}
}

const (
	// earlyBytes is from how much on a batch is written in pieces, at least two, that the disk may begin with.
	earlyBytes = 384 << 10
	// pieceBytes is about the size of a piece of more than two. More of them cost more than the disk gains by beginning
	// earlier. Pages of one write of 2 MiB and more take two to three times as long as those of smaller ones (ext4,
	// Linux 6.18). Pieces end at multiples of zeroBytes, where pages of the page cache do: one that is being written waits for that
	// before it is written again.
	pieceBytes = 512 << 10
)

// write writes a batch at off, the start of a block. buf holds its content, whole blocks of it, and is sealed where it is
// not: the first sector, and what stands behind sealed bytes (0: all of it). What stands in a recycled file behind it
// stays. Only version 3 is written. It is one pwrite, but for a large batch, of which the disk has a piece while the
// next one is sealed.
func (f *sectorFile) write(buf []byte, sealed int, off int64, lsn uint64) error {
	at := f.physical(off)
	if sealed > 0 {
		f.seal(buf[:sectorBytes], at, lsn)
	}
	pieces := 1
	if len(buf) >= earlyBytes {
		pieces = max(len(buf)/pieceBytes, 2)
	}
	from := 0
	for i := range pieces {
		to := len(buf)
		if i < pieces-1 { // at the boundary of pages that is the nearest
			to = int((at+int64(len(buf)/pieces*(i+1))+zeroBytes/2)/zeroBytes*zeroBytes - at)
		}
		if first := max(from, sealed); first < to {
			f.seal(buf[first:to], at+int64(first), lsn)
		}
		if _, err := f.raw.WriteAt(buf[from:to], at+int64(from)); err != nil {
			return err
		}
		if to < len(buf) { // with the last piece the sync begins
			if err := f.raw.StartWrite(at+int64(from), int64(to-from)); err != nil {
				return err
			}
		}
		from = to
	}
	return nil
}

// uncache takes what a batch wrote out of memory.
func (f *sectorFile) uncache(from, to int64) {
	at := f.physical(from)
	f.raw.WontRead(at, f.physical(to)-at)
}

// zero overwrites a range of whole blocks with zeros and syncs.
func (f *sectorFile) zero(from, to int64) error {
	if err := writeZeros(f.raw, f.physical(from), f.physical(to)); err != nil {
		return err
	}
	return f.raw.SyncData()
}

// rewrite writes a range of whole blocks with the bytes it has and syncs.
func (f *sectorFile) rewrite(from, to int64) error {
	at := f.physical(from)
	b := make([]byte, f.physical(to)-at)
	if err := readFull(f.raw, b, at); err != nil {
		return err
	}
	if _, err := f.raw.WriteAt(b, at); err != nil {
		return err
	}
	return f.raw.SyncData()
}
