package broker

import "time"

// A server tells the others of its counters, as nats-server does: that counts by it how many servers there are, and the
// command line client takes its word for how many answers are to come.
const (
	serverEvent = "$SYS.SERVER."
	// announceEvery is the time between two announcements, announceSoon that after a server has come or gone, whose
	// interest takes a moment, and announceRetry that after one that nobody wanted.
	announceEvery = 10 * time.Second
	announceSoon  = 100 * time.Millisecond
	announceRetry = time.Second
)

// announcer tells of this server; it belongs to mesh.watch.
type announcer struct {
	routes int // when it told last
	next   time.Time
}

// look announces when it is time.
func (n *announcer) look(m *mesh, routes int, now time.Time) {
	if routes != n.routes {
		n.routes, n.next = routes, now.Add(announceSoon)
	}
	if now.Before(n.next) {
		return
	}
	subject := serverEvent + m.b.id + ".STATSZ"
	if !m.b.system.HasInterest(subject) {
		n.next = now.Add(announceRetry)
		return
	}
	n.next = now.Add(announceEvery)
	m.b.publishJSON(m.b.system, subject, m.b.Statsz())
}

// takeLeave tells that this server ends.
func (m *mesh) takeLeave() {
	m.b.publishJSON(m.b.system, serverEvent+m.b.id+".SHUTDOWN", m.b.ServerInfo())
}

// servers is how many servers there are, as far as this one knows.
func (m *mesh) servers() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.routes) + 1
}
