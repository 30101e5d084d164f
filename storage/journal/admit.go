package journal

import "fmt"

const (
	// startBytes is what a group writes when it starts: its term and vote, then the entry that opens
	// the term, each in a batch of its own.
	startBytes = 2 * blockContent
	// startRoom is what AdmitStart asks for: a few starts at once, and writes of others in between.
	startRoom = 4 * startBytes
)

// Admit tells whether an entry with n bytes of payload should be appended now. It returns
// ErrTooLarge, ErrBusy, ErrFull, ErrClosed or the fatal error. ErrFull passes when space returns.
// On a full disk the last quarter of the last segment is refused, and more if all groups could not be
// started four times with it.
func (l *Log) Admit(n int) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.admitLocked(n, func(size, restart int64) int64 { return max(size/4, 4*restart) })
}

// AdmitControl is Admit for entries that give space back or keep the node going: on a full disk they
// may have all but the last sixteenth of the last segment, or up to a quarter if it takes that to start
// all groups once. What is left then is for records that must be written all the same and are
// appended without asking: hard states, releases, deletes of groups.
func (l *Log) AdmitControl(n int) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.admitLocked(n, func(size, restart int64) int64 { return max(size/16, min(restart, size/4)) })
}

// AdmitStart tells whether a group may be started, which writes its term, vote and first entry. On a
// full disk starts may use the last reserve, nearly to its end, and then get ErrFull.
func (l *Log) AdmitStart() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.admitLocked(0, func(_, _ int64) int64 { return startRoom })
}

// reserve is how many bytes have to be left, when the last segment has size bytes and starting all
// groups takes restart bytes.
type reserve func(size, restart int64) int64

// admitLocked decides about an entry with n bytes of data.
func (l *Log) admitLocked(n int, keep reserve) error {
	size := int64(recordSize(max(n, 0)))
	queued := l.fill.bytes + l.flight.bytes
	switch {
	case l.err != nil:
		return l.err
	case l.closed:
		return ErrClosed
	case size > int64(l.maxItem):
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, n, l.maxItem-recordBytes-payloadAlign)
	case l.full != nil && !l.roomLocked(queued+roundUp(size+batchBytes, blockContent), keep):
		return fmt.Errorf("%w: %w", ErrFull, l.full)
	}
	if queued+size > l.cfg.MaxQueuedBytes && queued > 0 {
		return ErrBusy
	}
	return nil
}

// roomLocked reports whether n more bytes find room in the segments that there are, and leave what is
// to be kept.
func (l *Log) roomLocked(n int64, keep reserve) bool {
	left, last := l.active.capacity-l.active.used, l.active.capacity
	if l.starved || n > left {
		left = 0 // run waits to leave the segment, or will leave it for this
	}
	most := left
	for _, s := range l.ready {
		last = s.capacity
		left += last - dataOffset
		most = max(most, last-dataOffset)
	}
	return n <= most && n <= left-keep(last, int64(len(l.groups))*startBytes)
}

func alignUp64(n int64) int64 { return roundUp(n, blockBytes) }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// Stalled returns an error that wraps ErrFull while what was appended cannot be written, because not
// even the reserve of a full disk has room for it. It passes when space returns.
func (l *Log) Stalled() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.starved && l.full != nil && len(l.ready) == 0 {
		return fmt.Errorf("%w: %w", ErrFull, l.full)
	}
	return nil
}
