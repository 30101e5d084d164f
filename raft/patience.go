package raft

import "time"

// patienceTime is for how long a node that was silent and came back is given more time, in attention.
const patienceTime = 30 * time.Second

// patience is how much longer than others a node may be silent before it is suspected, and taken for dead. It is learned: a
// node that was silent for so long that it was suspected, and was there all the same, is slow or far away, and has
// shown for how long it can be silent without being gone. Without that a cluster of slow machines would replace leaders
// that are well again and again, which makes it slower still. A machine that is never silent for that long has none: its
// death is noticed as soon as ever.
//
// Times are of the host's attention. The zero value is a node that was never silent. It is owned by who holds peer.mu.
type patience struct {
	more  time.Duration
	until time.Duration
}

// heard notes that a node was heard again at now after a silence. Silences up to little are nothing; however long one was,
// it earns most at the utmost.
func (p *patience) heard(now, silence, little, most time.Duration) {
	if silence <= little {
		return
	}
	p.more, p.until = min(max(silence, p.at(now)), most), now+patienceTime
}

// at returns how much more time the node gets now.
func (p *patience) at(now time.Duration) time.Duration {
	if now >= p.until {
		return 0
	}
	return p.more
}
