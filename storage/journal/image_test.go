package journal

import (
	"errors"
	"io"
	"maps"
	"slices"
	"sync"

	"millrace/storage/vfs"
)

// imageHeader is the header of the segment that all images are of.
func imageHeader(version uint32) header {
	h := header{version: version, id: 1, size: minSegmentBytes, salt: 0x0123456789abcdef, node: 7}
	if version != version1 {
		h.identity = 0xfedcba9876543210
	}
	return h
}

// buildImage returns the bytes of a segment with a batch for each function, made without a Log: the
// same bytes every time.
func buildImage(h header, k keys, batches ...func(*builder)) ([]byte, error) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("/j"); err != nil {
		return nil, err
	}
	raw, err := fsys.Create("/j/image")
	if err != nil {
		return nil, err
	}
	c, err := k.segmentCipher(h)
	if err = errors.Join(err, raw.Allocate(h.size)); err != nil {
		return nil, err
	}
	if err := writeHeader(raw, h); err != nil {
		return nil, err
	}
	s := newSegment(h, newSectorFile(h, raw, c))
	b, prev := &builder{}, link{}
	for _, add := range batches {
		b.start(s, s.end, 0)
		add(b)
		buf, last := b.finish(prev)
		if h.version < version3 { // with the checksums of the payloads
			content, from := contentOf(buf), prev
			sealBatch(content, s.file.padded, s.seed, &from)
			spread(buf, 0, content)
		}
		if h.version == version1 {
			_, err = raw.WriteAt(contentOf(buf)[:b.size], s.end)
		} else {
			err = s.file.write(buf, 0, s.end, last.lsn)
		}
		if err != nil {
			return nil, err
		}
		s.end += int64(b.size)
		prev = last
	}
	if err := s.mark(max(prev.lsn, 1) - 1); err != nil {
		return nil, err
	}
	out := make([]byte, h.size)
	_, err = raw.ReadAt(out, 0)
	return out, errors.Join(err, raw.Close())
}

// inSectors returns sectors that hold the content, not sealed.
func inSectors(content []byte) []byte {
	b := make([]byte, (len(content)+contentBytes-1)/contentBytes*sectorBytes)
	spread(b, 0, content)
	return b
}

// contentOf returns what sectors hold, which are not encrypted.
func contentOf(sectors []byte) (content []byte) {
	for s := range slices.Chunk(sectors, sectorBytes) {
		content = append(content, s[:contentBytes]...)
	}
	return content
}

// mustImage is buildImage for tests that have no way to fail it.
func mustImage(h header, batches ...func(*builder)) []byte {
	image, err := buildImage(h, keys{}, batches...)
	if err != nil {
		panic("BUG: image of a segment: " + err.Error())
	}
	return image
}

// memCatalog is a Catalog for one segment.
type memCatalog map[uint32][]byte

// memCatalogMu guards all of them: a log calls its catalog from two goroutines.
var memCatalogMu sync.Mutex

func (c memCatalog) NodeID() uint64 { return 7 }

func (c memCatalog) Segments() (map[uint32][]byte, error) {
	memCatalogMu.Lock()
	defer memCatalogMu.Unlock()
	return maps.Clone(c), nil
}

func (c memCatalog) PutSegment(id uint32, v []byte) error {
	memCatalogMu.Lock()
	defer memCatalogMu.Unlock()
	c[id] = v
	return nil
}

func (c memCatalog) DeleteSegment(id uint32) error {
	memCatalogMu.Lock()
	defer memCatalogMu.Unlock()
	delete(c, id)
	return nil
}

// imageConfig configures a log whose only segment has the given bytes.
func imageConfig(image []byte) (Config, error) {
	fsys := vfs.NewMem()
	if err := fsys.MkdirAll("/j"); err != nil {
		return Config{}, err
	}
	f, err := fsys.Create("/j/0000000001.seg")
	if err != nil {
		return Config{}, err
	}
	if _, err := f.WriteAt(image, 0); err != nil {
		return Config{}, err
	}
	h := imageHeader(le.Uint32(image[8:]))
	m := manifestRecord{state: stateLive, size: int64(len(image)), salt: h.salt, identity: h.identity}
	value := m.encode()
	if h.version == version1 { // as it was written then
		value = value[:manifestBytes1]
		value[0] = 1
	}
	return Config{FS: fsys, Dir: "/j", Catalog: memCatalog{1: value}, SegmentBytes: minSegmentBytes}, f.Close()
}

func openImage(image []byte) (*Log, error) {
	cfg, err := imageConfig(image)
	if err != nil {
		return nil, err
	}
	return Open(cfg)
}

// bytesFile is a file with the given bytes that can only be read.
type bytesFile struct {
	vfs.File
	io.ReaderAt
}

func (f bytesFile) ReadAt(p []byte, off int64) (int, error) { return f.ReaderAt.ReadAt(p, off) }
func (f bytesFile) Name() string                            { return "image" }
