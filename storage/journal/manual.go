package journal

// Work does one unit of work of a log with Config.Manual: it writes and syncs a batch and calls the
// Done of what it completed, or makes a segment ready, or begins or ends reclaiming one, or checks a part
// of one, or writes the mark. It returns false when there was nothing to do; that changes with calls of other methods, and
// with time. Work and Close must not be called concurrently, nor from Done.
func (l *Log) Work() (more bool) {
	if !l.cfg.Manual {
		panic("BUG: journal: Work of a log that is not manual")
	}
	l.mu.RLock()
	ended := l.err != nil || l.closed
	l.mu.RUnlock()
	if ended {
		return false
	}
	scrub := func() (bool, error) { return l.scrubStep(l.cfg.Clock()), nil }
	steps := [...]func() (bool, error){l.prepareStep, l.writeStep, l.reclaimStep, l.markStep, scrub}
	if l.turn++; l.turn%2 == 0 { // whoever always writes must not keep segments from being reclaimed
		steps[1], steps[2] = steps[2], steps[1]
	}
	for _, step := range steps {
		did, err := step()
		if err != nil {
			l.fail(err)
			return false
		}
		if did {
			return true
		}
	}
	return false
}

// drain writes what is queued, as run does when the log is closed.
func (l *Log) drain() {
	defer close(l.drained)
	for l.Err() == nil {
		did, err := l.writeStep()
		switch {
		case err != nil || did:
		case !l.writer.busy:
			if err := l.finalMark(); err != nil {
				l.fail(err)
			}
			return
		case l.full != nil:
			l.writer.abandon()
			return
		default:
			_, err = l.prepareStep()
		}
		if err != nil {
			l.fail(err)
		}
	}
}
