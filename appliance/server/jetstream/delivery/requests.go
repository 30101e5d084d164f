package delivery

import "time"

// pull is a waiting pull request.
type pull struct {
	next      *pull
	reply     string
	left      int // messages still wanted
	bytes     int // bytes still wanted; 0: no limit
	delivered int
	noWait    bool
	expires   time.Time // zero: never
	heartbeat time.Duration
	beatAt    time.Time // next idle heartbeat; zero: none wanted
}

// due returns when the request needs attention; zero: never.
func (p *pull) due() time.Time { return earlier(p.expires, p.beatAt) }

// earlier returns the earlier of two times of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// requestQueue holds waiting pull requests, first come first served; one that got a message goes to the
// end.
type requestQueue struct {
	head, tail *pull
	n          int
	dueAt      time.Time // no request needs attention before; zero: none does
}

func (q *requestQueue) add(p *pull) {
	p.next = nil
	if q.head == nil {
		q.head = p
	} else {
		q.tail.next = p
	}
	q.tail = p
	q.n++
	q.dueAt = earlier(q.dueAt, p.due())
}

// remove takes p out; prev is the one before it, nil for the head.
func (q *requestQueue) remove(prev, p *pull) {
	if prev == nil {
		q.head = p.next
	} else {
		prev.next = p.next
	}
	if q.tail == p {
		q.tail = prev
	}
	p.next = nil
	if q.n--; q.n == 0 {
		q.dueAt = time.Time{}
	}
}

// rotate moves the head to the end.
func (q *requestQueue) rotate() {
	if p := q.head; p != q.tail {
		q.head = p.next
		p.next = nil
		q.tail.next = p
		q.tail = p
	}
}
