package raft

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/raft/core"
)

// A repair brings back what this node's disk has lost of a group and another replica has: a committed entry of the
// log, parts of one before it, an object of the machine. What is asked for has the same bytes everywhere, see
// DESIGN.md, "Repair". It needs nobody who owns the group's core, but to have a commit index stored.

// Damage names something of a group that cannot be read here. It is comparable.
type Damage struct {
	Object bool   // an object of the machine, else an entry
	At     uint64 // key of the object, or index of the entry
	// Off and Len are the bytes of the entry that are needed, if it lies before the log's first entry; one in
	// the log is brought as a whole. Len 0: those that the machine's Retainer names.
	Off, Len uint32
}

func (d Damage) String() string {
	if d.Object {
		return fmt.Sprintf("object %d", d.At)
	}
	return fmt.Sprintf("entry %d", d.At)
}

// What a recFetch asks for.
const (
	fetchEntry  uint64 = iota // an entry of that term, of the receiver's log
	fetchParts                // bytes of a committed entry
	fetchObject               // of the machine
)

const (
	// fetchPatience is how long another replica has for one answer.
	fetchPatience = time.Second
	// fetchBytes is how much is asked for at once.
	fetchBytes = 512 << 10
	// smallAnswer is the size up to which an answer may go before entries.
	smallAnswer = 64 << 10
	// maxFetches bounds the answers that are made at the same time, and the repairs under way; more are not
	// answered, and refused.
	maxFetches = 64
)

var (
	errNobodyElse  = errors.New("there is no other replica")
	errNobodyThere = errors.New("no other replica can be reached")
	errNotHad      = errors.New("no other replica has it")
	errUncommitted = errors.New("it is not known to be committed")
	errOwn         = errors.New("it is of this replica alone, which writes its state anew if it is of that")
	errTooMany     = errors.New("too many repairs are under way")
)

// repairs are the repairs of a host, and what it gives others for theirs.
type repairs struct {
	host    *Host
	serving atomic.Int32

	mu     sync.Mutex // taken with no other lock held
	nextID uint64
	list   []*repair // under way, oldest first
}

// repair is one thing that is being brought back. Its fields are guarded by repairs.mu.
type repair struct {
	Damage
	g       *Group
	waiting []func(error)
	from    []*peer // still to be asked

	id    uint64 // of the question that is under way, 0: none is
	asked *peer
	sent  time.Time
	kind  uint64
	term  uint64  // of the entry, once it is known
	size  uint32  // likewise
	parts []Range // what is still to be brought
	data  []byte  // what was brought: of an entry in the log from its start on, else of parts[0]
	begun bool
}

// Repair brings back what is damaged from another replica, and calls done once, with an error when that was
// not possible: then it is as unreadable as before. log is that of the replica here that the caller means; it is
// refused when another one runs. It does not wait; done must not block.
func (h *Host) Repair(id GroupID, log uint64, d Damage, done func(error)) {
	g := h.group(id)
	if g == nil || g.log != log || h.snapshots == nil {
		done(fmt.Errorf("repair %v of group %d: %w", d, id, ErrStopped))
		return
	}
	h.repairs.start(g, d, done)
}

// AwaitRepair is Repair that waits, for the given time at most.
func (h *Host) AwaitRepair(id GroupID, log uint64, d Damage, patience time.Duration) error {
	result := make(chan error, 1)
	h.Repair(id, log, d, func(err error) { result <- err })
	select {
	case err := <-result:
		return err
	default:
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-result:
		return err
	case <-late.C:
		return fmt.Errorf("repair %v of group %d: not done after %v", d, id, patience)
	case <-h.closing:
		return ErrStopped
	}
}

// start begins a repair, or joins one that is under way.
func (rs *repairs) start(g *Group, d Damage, done func(error)) {
	r := &repair{Damage: d, g: g, waiting: []func(error){done}}
	err := r.plan()
	rs.mu.Lock()
	for _, o := range rs.list {
		if o.g == g && o.Damage == d {
			o.waiting = append(o.waiting, done)
			rs.mu.Unlock()
			return
		}
	}
	if err == nil && len(rs.list) >= maxFetches {
		err = errTooMany
	}
	if err == nil {
		rs.list = append(rs.list, r)
	}
	rs.mu.Unlock()
	if err != nil {
		done(fmt.Errorf("repair %v of group %d: %w", d, g.id, err))
		return
	}
	rs.ask(r)
}

// plan finds out what has to be brought and who may have it.
func (r *repair) plan() error {
	g := r.g
	g.mu.Lock()
	err, members, lead := g.stoppedLocked(), g.shown.members, g.shown.lead
	g.mu.Unlock()
	if err != nil {
		return err
	}
	if members == nil {
		return errNobodyElse
	}
	alone := true
	for replica := range others(members, g.replica) {
		p := g.peerOf(replica)
		if p == nil {
			continue
		}
		alone = false
		switch {
		case p.currentState() == PeerDead || slices.Contains(r.from, p):
		case replica == lead:
			r.from = slices.Insert(r.from, 0, p)
		default:
			r.from = append(r.from, p)
		}
	}
	switch {
	case r.Object && r.At >= MachineObjects:
		g.call(func() { g.ownDamaged(r.At) })
		return errOwn
	case alone:
		return errNobodyElse
	case len(r.from) == 0:
		return errNobodyThere
	case r.Object:
		r.kind = fetchObject
		return nil
	}
	store := g.host.snapshots
	first, last := store.Bounds(g.log)
	switch {
	case r.At > last:
		return errors.New("there is no such entry")
	case r.At >= first:
		r.kind = fetchEntry
		r.term, err = store.Term(g.log, r.At)
		return err
	}
	r.kind = fetchParts
	if r.Len > 0 {
		r.parts = []Range{{r.Off, r.Len}}
		return nil
	}
	m, ok := g.machine.(Retainer)
	if !ok {
		return ErrNotNeeded
	}
	err = m.Live(r.At, r.At+1, func(_ uint64, parts []Range) bool {
		r.parts = slices.Clone(parts)
		return false
	})
	if err == nil && len(r.parts) == 0 {
		err = ErrNotNeeded
	}
	return err
}

// ask sends the next question of a repair, to the next replica if the last one had no answer.
func (rs *repairs) ask(r *repair) {
	h := rs.host
	for {
		rs.mu.Lock()
		if r.asked == nil {
			if len(r.from) == 0 {
				rs.mu.Unlock()
				rs.end(r, errNotHad)
				return
			}
			r.asked, r.from = r.from[0], r.from[1:]
			r.data, r.begun = nil, false
		}
		rs.nextID++
		r.id, r.sent = rs.nextID, h.cfg.Now()
		var off, n uint64
		switch r.kind {
		case fetchEntry:
			off, n = uint64(len(r.data)), fetchBytes
		case fetchParts:
			part := r.parts[0]
			off = uint64(part.Off) + uint64(len(r.data))
			n = min(uint64(part.Len)-uint64(len(r.data)), fetchBytes)
		}
		var b builder
		b.record(h.incarnation, recFetch, r.g.id, r.id, r.kind, r.At, r.term, off, n)
		p := r.asked
		rs.mu.Unlock()
		if h.cfg.Transport.Send(p.node, LaneControl, b.parts()) {
			return
		}
		rs.mu.Lock()
		r.id, r.asked = 0, nil
		rs.mu.Unlock()
	}
}

// tick gives up questions that are not answered.
func (rs *repairs) tick() {
	now := rs.host.cfg.Now()
	var late []*repair
	rs.mu.Lock()
	for _, r := range rs.list {
		if r.id != 0 && now.Sub(r.sent) > fetchPatience {
			r.id, r.asked = 0, nil
			late = append(late, r)
		}
	}
	rs.mu.Unlock()
	for _, r := range late {
		rs.ask(r)
	}
}

// The codes of a recFetched.
const (
	fetchedSome uint64 = iota
	fetchedNone
)

// fetched takes an answer.
func (rs *repairs) fetched(p *peer, in *record) {
	id, code, term, size, sum, kind := in.num[0], in.num[1], in.num[2], in.num[3], in.num[4], in.num[5]
	rs.mu.Lock()
	i := slices.IndexFunc(rs.list, func(r *repair) bool { return r.id == id && r.asked == p && r.g.id == in.group })
	if i < 0 {
		rs.mu.Unlock()
		return
	}
	r := rs.list[i]
	r.id = 0
	good := code == fetchedSome && crc32.Checksum(in.data, castagnoli) == uint32(sum) && size < 1<<32
	switch {
	case !good:
	case r.kind == fetchObject:
		r.data = in.data
		rs.mu.Unlock()
		rs.store(r, uint8(kind))
		return
	default:
		want := size
		if r.kind == fetchParts {
			want = uint64(r.parts[0].Len)
		}
		good = (!r.begun || r.size == uint32(size)) && (r.term == 0 || r.term == term) &&
			uint64(len(r.data))+uint64(len(in.data)) <= want && (len(in.data) > 0 || want == 0)
		if good {
			r.term, r.size, r.begun = term, uint32(size), true
			r.data = append(r.data, in.data...)
			if uint64(len(r.data)) == want {
				rs.mu.Unlock()
				rs.store(r, uint8(kind))
				return
			}
		}
	}
	if !good {
		r.asked = nil
	}
	rs.mu.Unlock()
	rs.ask(r)
}

// store keeps what was brought. The repair is not touched by anybody else meanwhile, as it waits for no answer.
func (rs *repairs) store(r *repair, kind uint8) {
	g, store := r.g, rs.host.snapshots
	switch first, _ := store.Bounds(g.log); {
	case r.kind == fetchObject:
		if _, ok := slices.BinarySearch(store.ObjectKeys(g.log), r.At); ok { // else it was deleted meanwhile
			store.PutObject(g.log, r.At, r.data, nil)
		}
	case r.kind == fetchParts:
		part := r.parts[0]
		store.Install(g.log, r.At, r.term, r.size, []Range{part}, r.data, nil)
		rs.mu.Lock()
		r.parts, r.data = r.parts[1:], nil
		more := len(r.parts) > 0
		rs.mu.Unlock()
		if more {
			rs.ask(r)
			return
		}
	case r.At < first: // the log was cut meanwhile
		if r.size > 0 {
			store.Install(g.log, r.At, r.term, r.size, []Range{{0, r.size}}, r.data, nil)
		}
	default:
		e := Entry{Index: r.At, Term: r.term, Type: kind, Data: r.data}
		if state, _ := store.State(g.log); state.Commit < r.At {
			// Only a committed entry may stand in another place, and the store is to know that it is.
			g.ask(func(err error) {
				if err != nil {
					rs.end(r, err)
					return
				}
				g.mending = append(g.mending, mend{e, g.cfg.ElectionTicks, func(err error) { rs.end(r, err) }})
				g.wakeUp()
			})
			return
		}
		store.Repair(g.log, e, func() { rs.end(r, nil) })
		return
	}
	rs.end(r, nil)
}

// end tells those who wait for a repair.
func (rs *repairs) end(r *repair, err error) {
	rs.mu.Lock()
	n := len(rs.list)
	rs.list = slices.DeleteFunc(rs.list, func(o *repair) bool { return o == r })
	ended := len(rs.list) == n
	waiting, p := r.waiting, r.asked
	r.id = 0
	rs.mu.Unlock()
	if ended {
		return
	}
	log := rs.host.cfg.Logger
	if err != nil {
		err = fmt.Errorf("repair %v of group %d: %w", r.Damage, r.g.id, err)
		log.Warn("damaged data is not repaired", "group", uint64(r.g.id), "err", err)
	} else {
		rs.host.stats.repaired.Add(1)
		log.Warn("damaged data is repaired from another node", "group", uint64(r.g.id), "what", r.Damage.String(), "node", p.node)
	}
	for _, f := range waiting {
		f(err)
	}
}

// stopped ends a group's repairs.
func (rs *repairs) stopped(g *Group) {
	rs.mu.Lock()
	var list []*repair
	for _, r := range rs.list {
		if r.g == g {
			list = append(list, r)
		}
	}
	rs.mu.Unlock()
	for _, r := range list {
		rs.end(r, ErrStopped)
	}
}

// serve answers another replica's question, in the background.
func (rs *repairs) serve(p *peer, in *record) {
	if rs.serving.Add(1) > maxFetches {
		rs.serving.Add(-1)
		return
	}
	h, q := rs.host, *in
	h.background(func() {
		defer rs.serving.Add(-1)
		var b builder
		a, err := rs.read(&q)
		if err != nil {
			h.cfg.Logger.Debug("raft repair", "group", uint64(q.group), "node", p.node, "err", err)
			a = fetchedData{}
		}
		code := fetchedSome
		if err != nil {
			code = fetchedNone
		}
		start := b.begin(h.incarnation, recFetched, q.group)
		b.uvarints(q.num[0], code, a.term, uint64(a.size), uint64(crc32.Checksum(a.data, castagnoli)), uint64(a.kind))
		b.data(a.data)
		b.end(start)
		lanes := []Lane{LaneControl}
		if len(a.data) > smallAnswer {
			lanes = []Lane{LaneBulk, LaneAppend} // the first may be full for a long time
		}
		parts := b.parts()
		for _, lane := range lanes {
			if h.cfg.Transport.Send(p.node, lane, parts) {
				return
			}
		}
	})
}

// fetchedData is an answer.
type fetchedData struct {
	term uint64
	size uint32
	kind uint8
	data []byte
}

// read reads what a question asks for, if it has one content on all replicas.
func (rs *repairs) read(q *record) (a fetchedData, err error) {
	kind, at, term, off, n := q.num[1], q.num[2], q.num[3], q.num[4], q.num[5]
	g := rs.host.group(q.group)
	if g == nil || rs.host.snapshots == nil {
		return a, ErrStopped
	}
	g.mu.Lock()
	err, applied := g.stoppedLocked(), g.shown.applied
	g.mu.Unlock()
	if err != nil {
		return a, err
	}
	store := rs.host.snapshots
	n = min(n, fetchBytes)
	switch kind {
	case fetchObject:
		if at >= MachineObjects {
			return a, errNotHad
		}
		a.data, err = store.Object(g.log, at)
		return a, err
	case fetchEntry:
		first, last := store.Bounds(g.log)
		if at < first || at > last {
			return a, fmt.Errorf("entry %d of %d to %d: %w", at, first, last, errNotHad)
		}
		if a.term, err = store.Term(g.log, at); err != nil || a.term != term {
			return a, fmt.Errorf("entry %d is of term %d, not %d: %w", at, a.term, term, errors.Join(errNotHad, err))
		}
		entries, err := store.Entries(g.log, at, at+1, 0)
		if err != nil {
			return a, err
		}
		e := &entries[0]
		size := uint64(len(e.Data))
		a.size, a.kind = uint32(size), e.Type
		a.data = e.Data[min(off, size):min(off+n, size)]
		return a, nil
	case fetchParts:
		if at > applied {
			return a, errUncommitted
		}
		if a.term, a.size, err = store.Stat(g.log, at); err != nil {
			return a, err
		}
		if off > uint64(a.size) || n > uint64(a.size)-off {
			return a, fmt.Errorf("bytes [%d, %d) of entry %d, which has %d", off, off+n, at, a.size)
		}
		a.data = make([]byte, n)
		return a, store.ReadAt(g.log, at, int(off), a.data)
	}
	return a, fmt.Errorf("%w: a question of kind %d", ErrBadFrame, kind)
}

// mend is an entry of the log that was brought and waits until the store knows that it is committed. It is owned by
// who runs the core.
type mend struct {
	entry Entry
	ticks int // for so many more
	done  func(error)
}

// settleMends stores entries that were brought, when they may be. It is called by who owns the core.
func (g *Group) settleMends(ticked bool) {
	if len(g.mending) == 0 {
		return
	}
	store := g.host.snapshots
	state, _ := store.State(g.log)
	commit := g.core.Status().Commit
	g.mending = slices.DeleteFunc(g.mending, func(m mend) bool {
		if state.Commit >= m.entry.Index {
			store.Repair(g.log, m.entry, func() { m.done(nil) })
			return true
		}
		if commit >= m.entry.Index {
			g.core.Settle(m.entry.Index)
		}
		return false
	})
	if !ticked {
		return
	}
	for i := range g.mending {
		g.mending[i].ticks--
	}
	g.mending = slices.DeleteFunc(g.mending, func(m mend) bool {
		if m.ticks >= 0 {
			return false
		}
		m.done(errUncommitted)
		return true
	})
}

// damageState is what a group does about an entry that its core needs and cannot read.
type damageState struct {
	index  uint64    // it is reported, 0: none is
	under  bool      // it is being repaired
	after  time.Time // try again
	failed time.Time // since when nobody has it, while this replica leads; zero: not so
}

// retryRepair is the pause before what nobody could give is asked for again.
const retryRepair = 2 * time.Second

// lookForDamage has repaired what the core cannot read. Until then nothing is applied from there on, and this
// replica calls no election; if it leads and nobody can help, it hands over, and gives up if that does not come
// off. It is called by who owns the core, and returns why the group cannot go on.
func (g *Group) lookForDamage() error {
	index, cause := g.core.Damage()
	d := &g.damage
	if index == 0 {
		*d = damageState{under: d.under}
		return nil
	}
	if g.host.snapshots == nil || !g.hasOthers() {
		return fmt.Errorf("raft: group %d: %w", g.id, cause)
	}
	now := g.cfg.Now()
	if d.index != index {
		d.index, d.after = index, time.Time{}
		g.wakeUp()
		g.cfg.Logger.Error("a stored entry cannot be read", "group", uint64(g.id), "index", index, "err", cause)
	}
	if g.leadTerm != 0 && !d.failed.IsZero() && now.Sub(d.failed) > 2*time.Duration(g.cfg.ElectionTicks)*g.cfg.TickInterval {
		return fmt.Errorf("raft: group %d: leads and cannot go on: %w", g.id, cause)
	}
	if d.under || now.Before(d.after) {
		return nil
	}
	d.under = true
	g.host.repairs.start(g, Damage{At: index}, func(err error) { g.call(func() { g.damageRepaired(err) }) })
	return nil
}

// damageRepaired is called when a repair of what the core needs has ended.
func (g *Group) damageRepaired(err error) {
	d := &g.damage
	d.under = false
	if err == nil {
		g.core.Repaired()
		d.failed = time.Time{}
		if g.leadTerm != 0 {
			g.nudge()
		}
		return
	}
	d.after = g.cfg.Now().Add(retryRepair)
	if errors.Is(err, errNobodyThere) { // it may be the beginning
		d.after = g.cfg.Now().Add(4 * g.cfg.TickInterval)
	}
	if g.leadTerm == 0 {
		return
	}
	if d.failed.IsZero() {
		d.failed = g.cfg.Now()
	}
	best := core.Progress{}
	for _, p := range g.core.Status().Progress {
		if !p.Learner && p.Active && p.Match > best.Match {
			best = p
		}
	}
	if best.Replica != 0 {
		g.TransferLeader(best.Replica)
	}
}

// hasOthers reports whether the group has replicas on other nodes.
func (g *Group) hasOthers() bool {
	for replica := range others(&g.members, g.replica) {
		if g.peerOf(replica) != nil {
			return true
		}
	}
	return false
}

// ownDamaged looks whether an object of the host that is damaged is a part of the stored snapshot.
func (g *Group) ownDamaged(key uint64) {
	if k := g.snaps.current(); k != nil && k.has(key) {
		g.renewSnapshot()
	}
}
