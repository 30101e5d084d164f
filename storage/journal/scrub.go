package journal

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Damaged names something of a group that is stored and cannot be read any more.
type Damaged struct {
	Group  uint64
	Object bool   // an object, else an entry
	At     uint64 // key of the object, or index of the entry
	Err    error  // a *CorruptError
}

const (
	// scrubBytes is what one step reads.
	scrubBytes = 1 << 20
	// scrubMost is how fast it reads at most, in bytes a second, however large the log is.
	scrubMost = 32 << 20
	// scrubYield is how long it waits when there is something to be written, and scrubPatience how often in a row.
	scrubYield    = time.Second
	scrubPatience = 30
	// maxDamaged bounds what one step reports; what is left is met the next time.
	maxDamaged = 1024
)

// scrubber reads all that the segments hold, from one to the next, and reports what is needed of what it cannot read. It
// works in steps, spread over Config.ScrubInterval. Owned by reclaimLoop.
type scrubber struct {
	segment   uint32    // that is being read, 0: none
	at        int64     // the next byte of it to be read, physically
	notBefore time.Time // zero: it has not begun
	yielded   int
	read      int64 // bytes of this round
	damaged   int   // sectors of this round
}

// scrubStep reads the next bit. It returns false when it is not time yet.
func (l *Log) scrubStep(now time.Time) (did bool) {
	sc := &l.scrub
	switch {
	case l.cfg.ScrubInterval < 0 || now.Before(sc.notBefore):
		return false
	case sc.notBefore.IsZero(): // not while everything else begins
		sc.notBefore = now.Add(l.pauseScrub(l.held(), scrubBytes))
		return false
	}
	l.mu.RLock()
	busy := len(l.fill.items) > 0 || len(l.flight.items) > 0
	l.mu.RUnlock()
	if busy && sc.yielded < scrubPatience {
		// All that it waits is at most as long again as a round takes.
		yield := min(scrubYield, l.cfg.ScrubInterval/1024)
		if time.Duration(sc.yielded)*yield < l.pauseScrub(l.held(), scrubBytes) {
			sc.yielded++
			sc.notBefore = now.Add(yield)
			return false
		}
	}
	sc.yielded = 0
	s, end := l.scrubbed()
	if s == nil {
		if sc.read > 0 {
			l.cfg.Logger.Info("the journal was read and checked", "bytes", sc.read, "damaged sectors", sc.damaged)
		}
		sc.segment, sc.at, sc.read, sc.damaged = 0, 0, 0, 0
		if s, end = l.scrubbed(); s == nil {
			sc.notBefore = now.Add(l.pauseScrub(scrubBytes, scrubBytes))
			return false
		}
	}
	n := l.scrubSome(s, end)
	if err := s.release(); err != nil {
		l.cfg.Logger.Warn("close a journal segment", "file", s.file.Name(), "err", err)
	}
	sc.notBefore = now.Add(l.pauseScrub(l.held(), n))
	return true
}

// held is how many bytes the segments hold.
func (l *Log) held() (n int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.segs {
		n += s.used
	}
	return n
}

// pauseScrub is how long n of all bytes take.
func (l *Log) pauseScrub(all, n int64) time.Duration {
	share := time.Duration(float64(l.cfg.ScrubInterval) * float64(n) / float64(max(all, n, 1)))
	return max(share, time.Duration(n)*time.Second/scrubMost)
}

// scrubbed returns the segment that is read, or the next one, with a reference, and where what is durable of it ends,
// physically; nil after the last one.
func (l *Log) scrubbed() (*segment, int64) {
	sc := &l.scrub
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, id := range slices.Sorted(maps.Keys(l.segs)) {
		s := l.segs[id]
		if id < sc.segment || s.version == version1 || s.last.lsn == 0 {
			continue
		}
		end := s.used
		if s.tables == nil {
			end -= int64(footRoom(s.foot))
		}
		if id > sc.segment {
			sc.segment, sc.at = id, dataOffset
		}
		if last := s.physical(end); sc.at < last {
			s.refs.Add(1)
			return s, last
		}
	}
	return nil, 0
}

// scrubSome checks the next sectors of a segment, and returns how many bytes.
func (l *Log) scrubSome(s *segment, end int64) int64 {
	sc := &l.scrub
	b := make([]byte, min(scrubBytes, end-sc.at)/sectorBytes*sectorBytes)
	if len(b) == 0 {
		sc.at = end
		return 0
	}
	from := sc.at
	sc.at += int64(len(b))
	sc.read += int64(len(b))
	var bad []int64
	if err := readFull(s.file.raw, b, from); err != nil { // sector by sector, as far as they can be read
		l.cfg.Logger.Error("a journal segment cannot be read", "file", s.file.Name(), "offset", from, "err", err)
		for at := int64(0); at < int64(len(b)); at += sectorBytes {
			if readFull(s.file.raw, b[at:at+sectorBytes], from+at) != nil {
				clear(b[at : at+sectorBytes])
			}
		}
	}
	for at := int64(0); at < int64(len(b)); at += sectorBytes {
		if err := s.file.verify(b[at:at+sectorBytes], from+at); err != nil {
			bad = append(bad, from+at)
		}
	}
	if len(bad) > 0 {
		sc.damaged += len(bad)
		l.reportDamage(s, bad)
	}
	return int64(len(b))
}

// reportDamage reports what is needed of sectors, at physical offsets, that are not what was written.
func (l *Log) reportDamage(s *segment, sectors []int64) {
	found, err := l.damagedIn(s, sectors)
	if errors.Is(err, errFooter) {
		if err = l.rebuild(s.id, err); err == nil {
			found, err = l.damagedIn(s, sectors)
		}
	}
	log := l.cfg.Logger
	if err != nil {
		log.Error("a journal segment is damaged, and so are its tables", "file", s.file.Name(), "offset", sectors[0], "err", err)
	} else {
		log.Error("a journal segment is damaged", "file", s.file.Name(), "offset", sectors[0], "sectors", len(sectors), "needed", len(found))
	}
	l.leave.Store(s.id) // if it is the active one: only with its footer can it be read after a restart whatever stands there
	for _, d := range found {
		l.cfg.OnDamage(d)
	}
}

// damagedIn finds what of the segment's contents that are in force lies in some sectors.
func (l *Log) damagedIn(s *segment, sectors []int64) ([]Damaged, error) {
	var bad blanks
	for _, at := range sectors {
		from := s.file.logical(at)
		bad = append(bad, blank{int(from), int(from) + contentBytes})
	}
	hit := func(r row) bool { return bad.touch(int(r.off)-recordBytes, int(r.off)+int(r.length)) }
	var found []Damaged
	add := func(group uint64, object bool, at uint64) {
		if len(found) < maxDamaged {
			found = append(found, Damaged{Group: group, Object: object, At: at, Err: &CorruptError{
				File: s.file.Name(), Offset: sectors[0], Reason: fmt.Sprintf("%d sectors are not what was written", len(sectors))}})
		}
	}
	l.mu.RLock()
	groups := slices.Sorted(maps.Keys(s.groups))
	l.mu.RUnlock()
	for _, id := range groups {
		l.mu.RLock()
		g, c, t := l.groups[id], s.groups[id], s.tables
		var runs []run
		var rows []row
		if g != nil {
			for _, r := range g.runs {
				if r.seg == s.id {
					runs = append(runs, r)
				}
			}
			rows = c.rows.copy(0, uint32(c.rows.len()))
			for _, o := range c.objects {
				if have := g.objects[o.key]; hit(o.row) && have.blob == nil && have.seg == s.id && have.row == o.row {
					add(id, true, o.key)
				}
			}
		}
		l.mu.RUnlock()
		if g == nil {
			continue
		}
		moved := map[uint64]bool{}
		for _, r := range runs {
			for i := uint32(0); i < r.count; i++ {
				index := r.first + uint64(i)
				switch {
				case r.moved:
					moved[index] = true
					continue
				case t == nil && hit(rows[r.at+i]):
					add(id, false, index)
				case t != nil:
					place, err := l.readRow(s, t, c.rowsAt+(r.at+i)*rowBytes)
					if err != nil {
						return nil, err
					}
					if hit(place) {
						add(id, false, index)
					}
				}
			}
		}
		sparse, err := l.allSparse(s, c)
		if err != nil {
			return nil, err
		}
		for _, r := range sparse {
			if hit(r.row) && (moved[r.index] || !r.log) {
				add(id, false, r.index)
			}
		}
	}
	return found, nil
}
