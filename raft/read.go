package raft

import (
	"context"
	"slices"
	"time"

	"millrace/raft/core"
)

// readState is what a leader knows of reads. It is owned by who runs the core.
type readState struct {
	queue   []func(error) // of the next round
	round   uint64        // the read that the core was asked about; 0: none
	asked   []func(error) // of that round
	waiting []waitingRead // for their entry to be applied, by index
}

type waitingRead struct {
	index uint64
	done  func(error)
}

// ack is what a voter said of this replica's leadership.
type ack struct {
	replica uint64
	stamp   uint64 // of the promise of its node at that time
}

// ReadIndex calls done when the machine's state on this node has everything in it that was applied
// anywhere in the group before the call, so that a read of it is linearizable. It takes one round
// of messages to a quorum, which all reads of that time share. done is called once, by the
// group's worker, with nil, ErrNotLeader or ErrStopped; the machine may be read in it.
func (g *Group) ReadIndex(done func(error)) {
	g.mu.Lock()
	err := g.stoppedLocked()
	if err == nil && !g.ready {
		err = ErrNotLeader
	}
	if err != nil {
		g.mu.Unlock()
		done(err)
		return
	}
	g.readers = append(g.readers, done)
	wake := g.wakeLocked()
	g.mu.Unlock()
	if wake {
		g.worker.push(g)
	}
}

// LeaseRead is ReadIndex without messages while this node holds the promises of a quorum of nodes not to
// elect another leader; DESIGN.md says why that is enough. Then done is called before LeaseRead returns,
// by the caller. Without a lease it is ReadIndex.
func (g *Group) LeaseRead(done func(error)) {
	now := g.cfg.Now()
	g.mu.Lock()
	held := g.ready && !g.stopped && g.err == nil && g.shown.applied >= g.shown.commit && g.leaseLocked(now)
	g.mu.Unlock()
	if held {
		done(nil)
		return
	}
	g.ReadIndex(done)
}

// AwaitRead is LeaseRead for those who can wait. It returns the error of done, or ctx's cause.
func (g *Group) AwaitRead(ctx context.Context) error {
	answer := make(chan error, 1)
	g.LeaseRead(func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leaseLocked reports whether no other replica can have become the leader by now.
func (g *Group) leaseLocked(now time.Time) bool {
	m := g.shown.members
	if m == nil || g.noLease == g.shown.term || g.shown.lead != g.replica {
		return false
	}
	return g.quorumLocked(m.Voters, now) && (len(m.Outgoing) == 0 || g.quorumLocked(m.Outgoing, now))
}

func (g *Group) quorumLocked(voters []uint64, now time.Time) bool {
	held := 0
	for _, v := range voters {
		if v == g.replica || g.holdsLocked(v, now) {
			held++
		}
	}
	return held > len(voters)/2
}

// holdsLocked reports whether the node of a voter, which has confirmed that this replica leads, has
// promised without a break since then to keep it so.
func (g *Group) holdsLocked(voter uint64, now time.Time) bool {
	at := slices.IndexFunc(g.acks, func(a ack) bool { return a.replica == voter })
	if at < 0 {
		return false
	}
	p := g.peerOf(voter)
	return p != nil && p.holds(now, g.acks[at].stamp)
}

// acknowledged notes an answer of a replica that follows this one.
func (g *Group) acknowledged(in *inbound) {
	m := &in.msg
	if m.Reject || in.stamp == 0 || g.leadTerm == 0 || m.Term != g.leadTerm {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	at := slices.IndexFunc(g.acks, func(a ack) bool { return a.replica == m.From })
	if at < 0 {
		g.acks = append(g.acks, ack{m.From, in.stamp})
		return
	}
	g.acks[at].stamp = in.stamp
}

// read starts a round for reads, if none is under way.
func (g *Group) read(readers []func(error)) {
	r := &g.reads
	if len(readers) > 0 {
		g.stir()
		r.queue = append(r.queue, readers...)
	}
	if len(r.queue) == 0 || r.round != 0 {
		return
	}
	id := g.host.readIDs.Add(1)
	if err := g.core.ReadIndex(id); err != nil {
		g.failReads(ErrNotLeader)
		return
	}
	r.round, r.asked, r.queue = id, r.queue, nil
}

// nudge sends heartbeats to all replicas now.
func (g *Group) nudge() {
	if g.leadTerm != 0 {
		_ = g.core.ReadIndex(g.host.readIDs.Add(1)) // without an entry of the term it cannot yet
	}
}

// answerReads takes the core's answers.
func (g *Group) answerReads(reads []core.Read) {
	r := &g.reads
	for _, answer := range reads {
		if answer.ID != r.round {
			continue
		}
		for _, done := range r.asked {
			r.waiting = append(r.waiting, waitingRead{answer.Index, done})
		}
		r.round, r.asked = 0, nil
	}
	g.finishReads()
	g.read(nil)
}

// finishReads serves the reads whose entries are applied.
func (g *Group) finishReads() {
	r := &g.reads
	n := 0
	for n < len(r.waiting) && r.waiting[n].index <= g.applied {
		n++
	}
	if n == 0 {
		return
	}
	ready := r.waiting[:n:n]
	r.waiting = slices.Clone(r.waiting[n:])
	for _, w := range ready {
		w.done(nil)
	}
}

// failReads answers all reads with an error.
func (g *Group) failReads(err error) {
	r := g.reads
	g.reads = readState{}
	for _, done := range slices.Concat(r.asked, r.queue) {
		done(err)
	}
	for _, w := range r.waiting {
		w.done(err)
	}
}
