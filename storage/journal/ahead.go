package journal

// aheadBytes is how much has to be queued, while a batch is synced, for aheadLoop to begin with it: less is
// encoded by run in no time.
const aheadBytes = 64 << 10

// aheadLoop encodes and seals the next batch while run syncs one. It writes nothing: of batch n+1 nothing reaches the
// disk before the sync of batch n returned.
func (l *Log) aheadLoop() {
	for l.await(l.ahead, nil) {
		l.encodeAhead()
	}
}

// aheadLocked reports whether aheadLoop has something to do.
func (l *Log) aheadLocked() bool {
	return l.fill.urgent && l.fill.bytes >= aheadBytes && l.syncing.Load()
}

// sync makes the batch after latest, which was written, durable, and lets aheadLoop encode meanwhile.
func (l *Log) sync(s *segment) error {
	if l.cfg.Manual {
		return s.file.SyncData()
	}
	l.syncing.Store(true)
	l.mu.RLock()
	ahead := l.writer.nextItem < len(l.flight.items) || l.aheadLocked()
	l.mu.RUnlock()
	if ahead {
		signal(l.ahead)
	}
	err := s.file.SyncData()
	l.syncing.Store(false)
	l.hand.Lock() // until aheadLoop is done with the item it is at
	defer l.hand.Unlock()
	return err
}

// encodeAhead encodes and seals what is queued, as long as a batch is synced, and as far as it joins the next one in
// the same segment whole.
func (l *Log) encodeAhead() {
	l.hand.Lock()
	defer l.hand.Unlock()
	if !l.syncing.Load() {
		return
	}
	l.mu.Lock()
	if l.aheadLocked() {
		l.flight.join(&l.fill)
	}
	l.mu.Unlock()
	w := &l.writer
	for w.nextItem < len(w.queue.items) && l.syncing.Load() {
		it := &w.queue.items[w.nextItem]
		if l.oversize(it) || !l.next.fits(it.bytes, it.foot) {
			return
		}
		l.next.foot += it.foot
		w.encode(l.next, it)
		l.next.seal(l.latest.lsn + 2) // what is synced is the one after latest
	}
}
