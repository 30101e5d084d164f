package membership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// world is a simple model of one group: logs are lengths, elections and changes happen when the replicas
// that raft needs for them live.
type world struct {
	rng      *rand.Rand
	log      map[uint64]uint64 // entries that a replica has on disk
	up       map[uint64]bool
	voters   []uint64
	learners []uint64
	outgoing []uint64
	leader   uint64 // 0: none
	handing  uint64
	commit   uint64
	pending  *pending // a change that is in the log and not committed
	leaving  uint64   // index of the entry that ends a joint configuration; 0: not in the log
	trace    []string
}

// pending is a change at an index of the log.
type pending struct {
	index            uint64
	voters, learners []uint64
}

func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// majority reports whether a majority of both configurations is among those that ok accepts.
func (w *world) majority(ok func(uint64) bool) bool {
	for _, set := range [][]uint64{w.voters, w.outgoing} {
		n := 0
		for _, id := range set {
			if ok(id) {
				n++
			}
		}
		if len(set) > 0 && n <= len(set)/2 {
			return false
		}
	}
	return true
}

// members returns all, each once.
func (w *world) members() []uint64 {
	all := slices.Concat(w.voters, w.learners, w.outgoing)
	slices.Sort(all)
	return slices.Compact(all)
}

// advance commits what a majority has, and applies changes of members among it.
func (w *world) advance() {
	for w.leader != 0 {
		next := w.commit + 1
		if next > w.log[w.leader] || !w.majority(func(id uint64) bool { return w.log[id] >= next }) {
			break
		}
		w.commit = next
		if p := w.pending; p != nil && p.index == next {
			w.pending = nil
			if !slices.Equal(w.voters, p.voters) {
				w.outgoing, w.leaving = w.voters, 0
			}
			w.voters, w.learners = p.voters, p.learners
		}
		if w.leaving == next {
			w.outgoing, w.leaving = nil, 0
		}
	}
	if w.leader != 0 && len(w.outgoing) > 0 && w.leaving == 0 {
		w.log[w.leader]++
		w.leaving = w.log[w.leader]
	}
}

// elect makes a voter leader that has all that is committed, if a majority lives.
func (w *world) elect() {
	if w.leader != 0 {
		return
	}
	var can []uint64
	for _, id := range slices.Concat(w.voters, w.outgoing) {
		if w.up[id] && w.majority(func(other uint64) bool { return w.up[other] && w.log[other] <= w.log[id] }) {
			can = append(can, id)
		}
	}
	if len(can) > 0 {
		w.lead(can[w.rng.IntN(len(can))])
		w.note("%d leads", w.leader)
	}
}

// lead makes a replica leader: what others have beyond its log is void.
func (w *world) lead(id uint64) {
	w.leader, w.handing = id, 0
	for other := range w.log {
		w.log[other] = min(w.log[other], w.log[id])
	}
	if w.pending != nil && w.pending.index > w.log[id] {
		w.pending = nil
	}
	if w.leaving > w.log[id] {
		w.leaving = 0
	}
}

func (w *world) state() State {
	s := State{Self: w.leader, Commit: w.commit, Voters: w.voters, Learners: w.learners, Outgoing: w.outgoing, Transferring: w.handing}
	for _, id := range w.members() {
		if id != w.leader {
			s.Peers = append(s.Peers, Peer{Replica: id, Match: w.log[id], Active: w.up[id]})
		}
	}
	return s
}

// drive lets the leader take its next step and checks it.
func (w *world) drive(t *testing.T, target []uint64) (done bool) {
	if w.leader == 0 || !w.up[w.leader] {
		return false
	}
	a := Next(w.state(), target)
	if a.Kind != Wait {
		w.note("%d: %v %+v to %d, target %v, voters %v, learners %v", w.leader, a.Kind, a.Change, a.To, target, w.voters, w.learners)
	}
	switch a.Kind {
	case Transfer:
		if a.To == w.leader || !slices.Contains(w.voters, a.To) ||
			slices.Contains(w.voters, w.leader) && !slices.Contains(target, a.To) {
			w.fatal(t, "bad heir")
		}
		w.handing = a.To
	case Alter:
		w.alter(t, a.Change)
	case Done:
		if len(w.learners) > 0 || len(w.outgoing) > 0 || !slices.Equal(slices.Sorted(slices.Values(w.voters)), slices.Sorted(slices.Values(target))) {
			w.fatal(t, "done too early")
		}
		return true
	}
	return false
}

func (w *world) fatal(t *testing.T, what string) {
	t.Helper()
	from := max(0, len(w.trace)-25)
	for _, line := range w.trace[from:] {
		t.Log(line)
	}
	t.Fatalf("%s: voters %v, outgoing %v, learners %v, leader %d, commit %d, logs %v, up %v",
		what, w.voters, w.outgoing, w.learners, w.leader, w.commit, w.log, w.up)
}

// alter makes the change as raft does, if a majority can commit it, and checks what must hold of it.
func (w *world) alter(t *testing.T, c Change) {
	if slices.Contains(c.Remove, w.leader) || slices.Contains(c.Learners, w.leader) {
		w.fatal(t, "the leader was to leave")
	}
	for _, id := range c.Learners {
		if slices.Contains(w.voters, id) {
			w.fatal(t, "a voter was demoted")
		}
	}
	voters := slices.Clone(w.voters)
	for _, id := range c.Voters {
		if !slices.Contains(w.learners, id) || w.log[id] == 0 || w.log[id]+Slack < w.commit || !w.up[id] {
			w.fatal(t, "a replica was promoted that has not caught up")
		}
		voters = append(voters, id)
	}
	gone := func(id uint64) bool { return slices.Contains(c.Remove, id) }
	if slices.ContainsFunc(voters, gone) {
		for _, id := range w.learners {
			if !gone(id) && !slices.Contains(c.Voters, id) {
				w.fatal(t, "a voter left although a learner was there")
			}
		}
	}
	voters = slices.DeleteFunc(voters, gone)
	live := 0
	for _, id := range voters {
		if w.up[id] {
			live++
		}
	}
	if len(c.Voters)+len(c.Remove) > 0 && live <= len(voters)/2 && slices.ContainsFunc(w.voters, gone) {
		w.fatal(t, "the change takes the quorum away")
	}
	if w.pending != nil {
		return // refused; the leader will ask again
	}
	moved := func(id uint64) bool { return gone(id) || slices.Contains(c.Voters, id) }
	w.log[w.leader]++
	w.pending = &pending{
		index: w.log[w.leader], voters: voters,
		learners: slices.DeleteFunc(append(slices.Clone(w.learners), c.Learners...), moved),
	}
	w.advance()
}

// step lets one thing happen. With calm nobody dies.
func (w *world) step(t *testing.T, calm bool) {
	all := w.members()
	id := all[w.rng.IntN(len(all))]
	switch w.rng.IntN(7) {
	case 0, 1: // replicate
		if w.leader != 0 && w.up[id] {
			w.log[id] = max(w.log[id], min(w.log[w.leader], w.log[id]+1+uint64(w.rng.IntN(2*Slack))))
		}
	case 2: // write
		if w.leader != 0 && (!calm || w.rng.IntN(8) == 0) { // in peace others can follow
			w.log[w.leader] += 1 + uint64(w.rng.IntN(Slack/2))
		}
	case 3: // the hand-over ends, one way or the other
		if w.handing != 0 {
			if to := w.handing; w.up[to] && w.log[to] >= w.commit && slices.Contains(w.voters, to) {
				w.lead(to)
				w.note("%d took over", to)
			}
			w.handing = 0
		}
	case 4:
		w.elect()
	case 5: // the leader dies
		if !calm && w.rng.IntN(3) == 0 && w.leader != 0 {
			w.up[w.leader], w.leader, w.handing = false, 0, 0
			w.note("leader died")
		}
	case 6:
		if !calm || !w.up[id] && w.rng.IntN(4) == 0 {
			w.up[id] = !w.up[id] && (calm || w.rng.IntN(2) == 0) || w.up[id] && w.rng.IntN(8) != 0
			if !w.up[id] && w.leader == id {
				w.leader, w.handing = 0, 0
			}
		}
	}
	w.advance()
}

// TestWalk moves a group between random sets of members while replicas die and come back, and looks that
// nothing that is committed can be lost and that it arrives when it is left in peace.
func TestWalk(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		pick := func(n int) []uint64 {
			var ids []uint64
			for _, i := range rng.Perm(7)[:n] {
				ids = append(ids, uint64(i+1))
			}
			return ids
		}
		w := &world{rng: rng, log: map[uint64]uint64{}, up: map[uint64]bool{}, voters: pick(1 + rng.IntN(5))}
		for id := range uint64(8) {
			w.up[id] = true
		}
		w.elect()
		for range 6 {
			target := pick(1 + rng.IntN(5))
			for range 120 {
				w.step(t, false)
				if rng.IntN(2) == 0 && w.drive(t, target) {
					break
				}
				if w.leader != 0 && w.log[w.leader] < w.commit {
					w.fatal(t, "the leader lacks what is committed")
				}
			}
		}
		// In peace it arrives. Members that are to leave may stay dead as long as there is a quorum.
		target := pick(1 + rng.IntN(5))
		for _, id := range slices.Concat(target, w.voters, w.outgoing) {
			w.up[id] = true
		}
		done := false
		for range 3000 {
			w.step(t, true)
			if done = w.drive(t, target); done {
				break
			}
		}
		if !done {
			w.fatal(t, fmt.Sprintf("seed %d: does not arrive at %v", seed, target))
		}
	}
}

// TestReplaceOfDeadMember lets the leader die at every step of the replacement of a dead member, and come
// back.
func TestReplaceOfDeadMember(t *testing.T) {
	for _, tc := range []struct {
		voters, target []uint64
		dead           uint64
	}{
		{[]uint64{1, 2, 3}, []uint64{1, 2, 4}, 3},
		{[]uint64{1, 2, 3, 4, 5}, []uint64{1, 2, 3, 4, 6}, 5},
		{[]uint64{1, 2, 3}, []uint64{4, 5, 6}, 1},
		{[]uint64{1}, []uint64{1, 2, 3}, 0},
		{[]uint64{1, 2, 3}, []uint64{2}, 3},
	} {
		for die := range 40 {
			w := &world{rng: rand.New(rand.NewPCG(uint64(die), 2)), log: map[uint64]uint64{}, up: map[uint64]bool{}, voters: tc.voters}
			for id := range uint64(8) {
				w.up[id] = id != tc.dead
			}
			done := false
			steps := 0
			for range 4000 {
				if w.leader == 0 {
					w.elect()
				}
				if w.leader != 0 {
					if done = w.drive(t, tc.target); done {
						break
					}
					if steps++; steps == die && len(w.voters) > 1 {
						last := w.leader
						w.up[last], w.leader, w.handing = false, 0, 0
						w.elect()
						w.drive(t, tc.target)
						w.up[last] = true
					}
				}
				w.step(t, true)
				w.up[tc.dead] = false
			}
			if !done {
				w.fatal(t, fmt.Sprintf("voters %v, leader dies at step %d: does not arrive at %v", tc.voters, die, tc.target))
			}
		}
	}
}
