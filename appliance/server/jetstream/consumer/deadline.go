package consumer

// timer is the moment at which a pending message is due again. A timer is stale when the message is
// no longer pending or its deadline is another; stale timers are skipped when they surface.
type timer struct {
	deadline int64
	seq      uint64
}

func (t timer) before(o timer) bool {
	return t.deadline < o.deadline || t.deadline == o.deadline && t.seq < o.seq
}

// timerHeap is a binary heap, earliest first. With one ack wait for all messages every new timer is
// the latest, so that a push touches one element only.
type timerHeap []timer

func (h *timerHeap) push(t timer) {
	s := append(*h, t)
	i := len(s) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !t.before(s[parent]) {
			break
		}
		s[i] = s[parent]
		i = parent
	}
	s[i] = t
	*h = s
}

func (h *timerHeap) pop() {
	s := *h
	n := len(s) - 1
	t := s[n]
	s = s[:n]
	*h = s
	i := 0
	for {
		child := 2*i + 1
		if child >= n {
			break
		}
		if child+1 < n && s[child+1].before(s[child]) {
			child++
		}
		if !s[child].before(t) {
			break
		}
		s[i] = s[child]
		i = child
	}
	if n > 0 {
		s[i] = t
	}
}

// schedule sets when e is due (again) and takes it off the due queue.
func (m *Machine) schedule(e *entry, deadline int64) {
	if e.ready {
		e.ready = false
		m.ready--
	}
	e.deadline = deadline
	if deadline == never || !m.timed {
		return
	}
	if len(m.timers) > 2*m.pending.live+compactSlack {
		m.rebuildTimers()
		return
	}
	m.timers.push(timer{deadline, e.seq})
}

// keepTimers is called before timers are looked at.
func (m *Machine) keepTimers() {
	if !m.timed {
		m.timed = true
		m.rebuildTimers()
	}
}

// rebuildTimers drops stale timers. The list is in sequence order; pushing restores the heap.
func (m *Machine) rebuildTimers() {
	m.timers = m.timers[:0]
	if !m.timed {
		return
	}
	m.forEach(func(e *entry) {
		if !e.ready && e.deadline != never {
			m.timers.push(timer{e.deadline, e.seq})
		}
	})
}

// unready moves all of the due queue back to the timers.
func (m *Machine) unready() {
	m.due, m.dueHead, m.ready = m.due[:0], 0, 0
	m.forEach(func(e *entry) { e.ready = false })
	m.rebuildTimers()
}

func (m *Machine) forEach(fn func(*entry)) {
	for i := m.pending.head; i < len(m.pending.list); i++ {
		if e := &m.pending.list[i]; e.count != 0 {
			fn(e)
		}
	}
}

// valid returns the pending entry that t stands for, or nil when t is stale.
func (m *Machine) valid(t timer) *entry {
	if e := m.pending.find(t.seq); e != nil && !e.ready && e.deadline == t.deadline {
		return e
	}
	return nil
}
