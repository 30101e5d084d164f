package journal

import (
	"fmt"
	"slices"
)

// Range is a part of an entry's data, in bytes.
type Range struct{ Off, Len uint32 }

// Retainer tells what of the entries before a group's first index is still needed. It is called at any
// time, without locks, by one goroutine at a time, and does not block for long.
type Retainer interface {
	// Live calls yield for each entry of [lo, hi) with needed bytes, ascending, with the parts of its
	// data that are needed, ascending and apart, until yield returns false. With an error it does not
	// know all of them: then all is kept.
	Live(lo, hi uint64, yield func(index uint64, parts []Range) bool) error
	// LiveBytes returns about how many bytes Live would name.
	LiveBytes(lo, hi uint64) int64
}

// Retain tells who knows what is needed of the entries before a group's first index. Until it is called
// for a group, all of them are kept; so they are again with nil.
func (l *Log) Retain(group uint64, r Retainer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r == nil {
		delete(l.retain, group)
	} else if _, dropped := l.dropped[group]; !dropped {
		l.retain[group] = r
	}
}

// Release says that nobody needs a group's entries up to upTo any more, neither the log nor a Retainer.
// They answer ErrCompacted at once, and Bounds' first is at least upTo+1; the index is durable within a
// second. Segments that hold nothing else are given back after that. upTo is clamped to the last entry;
// what was released stays so.
func (l *Log) Release(group, upTo uint64) { l.compact(group, upTo, upTo) }

// Compact moves the first index of a group's log to upTo+1; the index is durable within a second. What
// the entries before it hold stays readable by ReadAt as long as the group's Retainer names it. upTo is
// clamped to the last entry.
func (l *Log) Compact(group, upTo uint64) { l.compact(group, upTo, 0) }

func (l *Log) compact(group, upTo, release uint64) {
	l.mu.Lock()
	var wake wake
	if g := l.groups[group]; g != nil && l.err == nil && !l.closed {
		upTo, release = min(upTo, g.last), min(release, g.last)
		if upTo >= g.base || release > g.released {
			if upTo >= g.base {
				g.compact(upTo, g.term(upTo))
			}
			g.released = max(g.released, release)
			wake = l.enqueueLocked(boundsItem(g), false)
		}
	}
	l.mu.Unlock()
	l.rouse(wake)
}

// boundsItem is a BOUNDS record of a group as it is now.
func boundsItem(g *group) item {
	it := item{group: g, special: kindBounds,
		bounds: bounds{index: g.base - 1, term: g.baseTerm, last: g.last, released: g.released}}
	it.add(boundsBytes, footGroupMax)
	return it
}

// Install stores parts of the data of an entry that lies before the group's first index, or will: data
// holds the bytes of ranges, one after the other, size is that of the whole entry. ReadAt takes the bytes of
// an entry before the first index from what was installed last, where it has them, and the others from
// what was before: an entry can be installed in pieces. Install owns data from now on. done,
// which may be nil, is called as Write.Done is. Parts that do not fit the entry or their data are a bug of
// the caller and panic.
func (l *Log) Install(id, index, term uint64, size uint32, ranges []Range, data []byte, done func()) {
	r := relocated{size: size, ranges: joined(ranges)}
	n, err := rangesBytes(r.ranges, size)
	if err != nil || n != len(data) || index == 0 || index > maxIndex {
		panic(fmt.Sprintf("BUG: journal: group %d installs %d bytes of entry %d where %d belong: %v", id, len(data),
			index, n, err))
	}
	l.install(id, &blob{kind: kindRelocated, index: index, term: term, payload: r.encode(), data: data, cold: true}, done)
}

// Repair stores a committed entry of the group's log once more, and owns its Data from now on; it is read from its new place when that is durable.
// It does nothing when the log has no committed entry with that index and term. done, which may be nil, is
// called as Write.Done is.
func (l *Log) Repair(id uint64, e Entry, done func()) {
	size := uint32(len(e.Data))
	r := relocated{size: size, log: true, ranges: joined([]Range{{0, size}})}
	l.install(id, &blob{kind: kindRelocated, entryType: e.Type, index: e.Index, term: e.Term, payload: r.encode(), data: e.Data},
		done)
}

// install queues a RELOCATED record.
func (l *Log) install(id uint64, b *blob, done func()) {
	it := item{blob: b, done: done}
	it.add(b.size(), footGroupMax+footMovedMax)
	l.checkFits(id, &it)
	l.enqueueItem(id, it, func(g *group, it *item) {
		if le.Uint32(b.payload[8:]) == 1 && (b.index < g.base || b.index > min(g.last, g.state.Commit) ||
			g.term(b.index) != b.term) {
			*it = item{group: g, done: it.done} // only waits
			return
		}
		if g.pending == nil {
			g.pending = make(map[uint64][]*blob)
		}
		g.pending[b.index] = append(g.pending[b.index], b)
		l.lookAgainLocked()
	})
}

// lookAgainLocked lets the mover try once more segments in which it has met damage: what is stored now may be in the
// place of that.
func (l *Log) lookAgainLocked() {
	if !l.hurt {
		return
	}
	l.hurt = false
	for _, s := range l.segs {
		s.damaged = false
	}
}

// joined returns ranges with those that touch put together and empty ones left out.
func joined(ranges []Range) []Range {
	out := make([]Range, 0, len(ranges))
	for _, r := range ranges {
		if n := len(out); n > 0 && uint64(out[n-1].Off)+uint64(out[n-1].Len) == uint64(r.Off) {
			out[n-1].Len += r.Len
		} else if r.Len > 0 {
			out = append(out, r)
		}
	}
	return slices.Clip(out)
}

// overlap returns what of the wanted ranges is had, in the pieces in which it is, and the rest of them. Both
// arguments are ascending and apart.
func overlap(want, have []Range) (both, rest []Range) {
	for _, w := range want {
		off, end := uint64(w.Off), uint64(w.Off)+uint64(w.Len)
		for _, h := range have {
			from, to := max(off, uint64(h.Off)), min(end, uint64(h.Off)+uint64(h.Len))
			if from >= to {
				continue
			}
			if off < from {
				rest = append(rest, Range{uint32(off), uint32(from - off)})
			}
			both = append(both, Range{uint32(from), uint32(to - from)})
			off = to
		}
		if off < end {
			rest = append(rest, Range{uint32(off), uint32(end - off)})
		}
	}
	return both, rest
}
