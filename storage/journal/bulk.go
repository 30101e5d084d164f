package journal

import (
	"slices"

	"millrace/storage/vfs"
)

const (
	// bulkWindow is how many bytes of a segment a Bulk reads at once.
	bulkWindow = 2 << 20
	// bulkAhead is how many it has in memory. The disk may be busy with all of them but a window.
	bulkAhead = 8 << 20
)

// Bulk reads entries of a group one after the other, as whoever sends many GB does. What is not in memory it reads past
// the page cache, which is for those who read again, and ahead: the disk reads some windows while the caller has another.
// It is for one caller at a time.
type Bulk struct {
	log     *Log
	group   uint64
	windows []*window // each one follows the one before; the caller is in the first
	credit  int64     // bytes that may be read ahead: few are when only a little here and there is wanted
}

// Bulk returns a Bulk for a group.
func (l *Log) Bulk(group uint64) *Bulk {
	b := &Bulk{log: l, group: group, credit: bulkAhead}
	for range bulkAhead / bulkWindow {
		b.windows = append(b.windows, new(window))
	}
	return b
}

// ReadAt is Log.ReadAt for the group.
func (b *Bulk) ReadAt(index uint64, off int, p []byte) error {
	b.credit = min(b.credit+2*int64(len(p)), bulkAhead)
	return b.log.readEntry(b.group, index, off, p, b)
}

// read fills p with what stands in a segment from off on.
func (b *Bulk) read(s *segment, p []byte, off int64) error {
	r := s.file.reader(off + int64(len(p)))
	defer r.close()
	r.ahead = func(at int64) []byte { return b.bytes(s, at) }
	return readFull(&r, p, off)
}

// bytes returns what stands in a segment's file from a physical offset on, as far as it is at hand; nothing when it is
// to be read as ever. The caller has a reference to the segment. What was returned before is not valid any more.
func (b *Bulk) bytes(s *segment, at int64) []byte {
	if i := slices.IndexFunc(b.windows, func(w *window) bool { return w.holds(s, at) }); i >= 0 {
		past := slices.Clone(b.windows[:i])
		b.windows = append(b.windows[:0], b.windows[i:]...)
		for _, w := range past {
			b.load(w, s, b.windows[len(b.windows)-1].to)
			b.windows = append(b.windows, w)
		}
		return b.windows[0].from(at)
	}
	if b.credit < bulkWindow {
		return nil
	}
	next := at / vfs.DirectBytes * vfs.DirectBytes
	for _, w := range b.windows {
		b.load(w, s, next)
		next = w.to
	}
	return b.windows[0].from(at)
}

// load begins to read what a segment has from off on into a window, unless that is in memory already. The caller has a
// reference to the segment.
func (b *Bulk) load(w *window, s *segment, off int64) {
	w.wait()
	w.seg, w.off, w.to, w.data, w.loaded = s.id, off, off, nil, nil
	l := b.log
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s.tables == nil || l.closed || b.credit < bulkWindow { // without tables: something may be written there yet
		return
	}
	w.to = max(off, min(off+bulkWindow, roundUp(s.physical(s.used), vfs.DirectBytes)))
	if w.off == w.to || !s.file.raw.Cold((w.off+w.to)/2) {
		return
	}
	b.credit -= w.to - w.off
	w.loaded = make(chan struct{})
	if w.buf == nil {
		w.buf = make([]byte, bulkWindow)
	}
	s.refs.Add(1)
	l.wg.Go(func() {
		defer close(w.loaded)
		if buf := w.buf[:w.to-w.off]; readFull(direct{s.file.raw}, buf, w.off) == nil { // else the read that wants it will tell
			w.data = buf
		}
		_ = s.release()
	})
}

// window is a range of a segment's file that is read, or being read, past the page cache, or is to be read as ever.
type window struct {
	seg     uint32
	off, to int64
	buf     []byte
	loaded  chan struct{} // closed when data is set; nil: nothing is read
	data    []byte        // of the range; nil when it is to be read as ever
}

func (w *window) holds(s *segment, at int64) bool { return w.seg == s.id && w.off <= at && at < w.to }

func (w *window) wait() {
	if w.loaded != nil {
		<-w.loaded
	}
}

// from waits for what the window has from a place on.
func (w *window) from(at int64) []byte {
	if w.wait(); w.data == nil {
		return nil
	}
	return w.data[at-w.off:]
}

// direct reads a file past the page cache.
type direct struct{ vfs.File }

func (d direct) ReadAt(p []byte, off int64) (int, error) { return d.ReadDirect(p, off) }
