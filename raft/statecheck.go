package raft

import (
	"fmt"
	"hash/crc32"
	"time"
)

// The replicas of a group have equal states after equal entries. A leader has that compared now and then: it names an
// entry, all capture their state when they have applied it and tell the leader its checksum. Who differs from a majority
// fails: it serves nothing any more, and another replica takes its place. See DESIGN.md, "Comparing states".

// checkState is what a group knows of the comparison of states. It is owned by who runs the core.
type checkState struct {
	want uint64 // the state after this entry is to be captured, 0: none is
	term uint64 // of the leader that wants it

	index uint64 // the entry of the last capture
	sum   uint64 // of it, 0: it is being written

	// Of a leader.
	next    time.Time         // not before; zero: not drawn yet
	asked   uint64            // entry of the comparison under way, 0: none is
	since   time.Time         // when it began
	checked uint64            // entry of the last comparison that has ended
	sums    map[uint64]uint64 // by replica
}

// checkPatience is in how many election timeouts all have to have answered.
const checkPatience = 4

// compareStates begins a comparison when it is time, and ends one that was answered. It is called with the time, and
// returns why this replica cannot go on.
func (g *Group) compareStates() error {
	c := &g.checks
	if g.cfg.CheckInterval < 0 || !g.snaps.taken || g.solo {
		return nil
	}
	now := g.cfg.Now()
	if c.next.IsZero() {
		c.next = now.Add(time.Duration(g.host.rand(int(g.cfg.CheckInterval/time.Millisecond)+1)) * time.Millisecond)
	}
	if c.asked != 0 {
		return g.judgeStates(now.Sub(c.since) > checkPatience*time.Duration(g.cfg.ElectionTicks)*g.cfg.TickInterval)
	}
	if now.Before(c.next) || g.applied <= c.checked || g.opens != g.leadTerm || g.sleep.asleep {
		return nil
	}
	c.next = now.Add(g.cfg.CheckInterval)
	c.asked, c.since, c.sums = g.last, now, make(map[uint64]uint64)
	for replica := range others(&g.members, g.replica) {
		if p := g.peerOf(replica); p != nil {
			g.host.sendRecord(p, recCheck, g.id, g.leadTerm, c.asked, g.cfg.StateFormat)
		}
	}
	g.captureAt(g.leadTerm, c.asked)
	return nil
}

// captureAt captures the state after an entry, now or when that is applied.
func (g *Group) captureAt(term, index uint64) {
	c := &g.checks
	if !g.snaps.taken || index < g.applied || g.snaps.toRestore != nil {
		return // too late
	}
	c.want, c.term = index, term
	if index == g.applied {
		g.captureCheck()
	}
}

// captureCheck captures the present state, and has its checksum made.
func (g *Group) captureCheck() {
	c := &g.checks
	index, term := c.want, c.term
	c.want = 0
	state, err := g.machine.(Snapshotter).Snapshot()
	if err != nil {
		return // it has failed, and does not serve anything
	}
	c.index, c.sum = index, 0
	g.host.background(func() {
		s := &stateSum{}
		err := g.guard(func() error {
			if _, err := state.WriteTo(s); err != nil {
				return err
			}
			_, err := s.Write(encodeManifest(state.Objects()))
			return err
		})
		state.Abandon()
		if err != nil {
			g.cfg.Logger.Warn("checksum of a raft group's state", "group", uint64(g.id), "err", err)
			return
		}
		g.call(func() { g.captured(term, index, s.sum()) })
	})
}

// stateSum is an io.Writer that makes a checksum: CRC-32C and length.
type stateSum struct {
	crc    uint32
	length uint32
}

func (s *stateSum) Write(p []byte) (int, error) {
	s.crc = crc32.Update(s.crc, castagnoli, p)
	s.length += uint32(len(p))
	return len(p), nil
}

// sum is not 0.
func (s *stateSum) sum() uint64 { return uint64(s.length|1)<<32 | uint64(s.crc) }

// captured is called when the checksum of a captured state is made.
func (g *Group) captured(term, index, sum uint64) {
	c := &g.checks
	if c.index == index {
		c.sum = sum
	}
	switch {
	case g.leadTerm == term:
		if c.asked == index {
			c.sums[g.replica] = sum
		}
	case g.leadTerm == 0 && g.term == term:
		if p := g.peerOf(g.lead); p != nil {
			g.host.sendRecord(p, recChecked, g.id, term, index, sum, g.replica)
		}
	}
}

// stateChecked takes the checksum of another replica's state.
func (g *Group) stateChecked(in *inbound) {
	term, index, sum, replica := in.num[0], in.num[1], in.num[2], in.num[3]
	if c := &g.checks; g.leadTerm == term && c.asked == index && index != 0 && g.isMember(replica) {
		c.sums[replica] = sum
	}
}

// judgeStates looks at the checksums when all are there, or it is late.
func (g *Group) judgeStates(late bool) error {
	c := &g.checks
	members, count := 1, map[uint64]int{}
	for range others(&g.members, g.replica) {
		members++
	}
	most := uint64(0)
	for _, sum := range c.sums {
		count[sum]++
		if count[sum] > count[most] {
			most = sum
		}
	}
	if len(c.sums) < members && !late {
		return nil
	}
	index := c.asked
	c.asked, c.checked = 0, index
	if len(count) < 2 {
		g.cfg.Logger.Debug("states compared", "group", uint64(g.id), "index", index, "replicas", len(c.sums))
		return nil
	}
	log := g.cfg.Logger.With("group", uint64(g.id), "index", index)
	if 2*count[most] <= members {
		log.Error("replicas have different states, and it is not known which is right", "checksums", fmt.Sprintf("%x", c.sums))
		return nil
	}
	log.Error("a replica has another state than the others", "checksums", fmt.Sprintf("%x", c.sums))
	for replica := range others(&g.members, g.replica) {
		if sum, ok := c.sums[replica]; ok && sum != most {
			if p := g.peerOf(replica); p != nil {
				g.host.sendRecord(p, recDiffers, g.id, g.leadTerm, index, most)
			}
		}
	}
	if own, ok := c.sums[g.replica]; ok && own != most {
		return g.differs(index, own, most)
	}
	return nil
}

// toldDiffers is the word of the leader that this replica's state is not that of most.
func (g *Group) toldDiffers(in *inbound) error {
	term, index, most := in.num[0], in.num[1], in.num[2]
	if c := &g.checks; g.leadTerm != 0 || term != g.term || c.index != index || c.sum == 0 || c.sum == most {
		return nil
	}
	return g.differs(index, g.checks.sum, most)
}

func (g *Group) differs(index, own, most uint64) error {
	return fmt.Errorf("raft: group %d: %w: the state after entry %d has checksum %x, that of most replicas %x",
		g.id, ErrDiverged, index, own, most)
}
