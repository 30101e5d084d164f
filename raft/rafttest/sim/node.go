package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"millrace/raft"
	"millrace/raft/core"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// node is one machine: a disk, a clock, and, while it runs, a process with a journal and a host.
type node struct {
	cluster *cluster
	index   int // id is index+1
	rnd     *rand.Rand
	disk    *disk
	clock   clock
	up      bool
	paused  bool
	life    uint64 // number of the process; what was scheduled for an earlier one does not happen
	backlog []func()
	suspect bool // bits of the disk were flipped: it may turn out to be damaged
	full    bool
	aside   bool // clients do not reach it
	trap    *trap

	// Of the process.
	host    *raft.Host
	store   *store
	running map[uint64]*replica         // by log
	members map[uint64]*core.Membership // by log, as last seen
	before  map[uint64]*core.Membership // and what it was before that
	hostDue bool
	workDue bool
}

var _ endpoint = (*node)(nil)

func newNode(c *cluster, index int) *node {
	rnd := c.world.source(fmt.Sprintf("node %d", index+1))
	n := &node{cluster: c, index: index, rnd: rnd, clock: newClock(rnd)}
	n.disk = newDisk(c.world, index, uint64(index+1), c.cfg.Ideal)
	return n
}

func (n *node) alive() bool { return n.up }

// now is the time on the node's clock.
func (n *node) now() time.Time { return epoch.Add(n.clock.at(n.cluster.world.now)) }

// after schedules something that this process does.
func (n *node) after(d time.Duration, fn func()) {
	life := n.life
	n.cluster.world.after(d, func() {
		if n.up && n.life == life {
			n.enter(fn)
		}
	})
}

// enter does something in the process: now, or when a paused one goes on.
func (n *node) enter(fn func()) {
	switch {
	case !n.up:
	case n.paused:
		n.backlog = append(n.backlog, fn)
	default:
		fn()
		if n.up && n.disk.dying() { // the power went off meanwhile
			n.die(n.disk.loss)
		}
	}
}

// call does something that the host then has to look at.
func (n *node) call(fn func()) {
	n.enter(func() {
		fn()
		n.poke()
	})
}

// take implements endpoint.
func (n *node) take(fn func(raft.Receiver)) { n.call(func() { fn(n.host) }) }

// poke lets the host run soon.
func (n *node) poke() {
	if n.hostDue || !n.up {
		return
	}
	n.hostDue = true
	n.after(between(n.rnd, time.Microsecond, 60*time.Microsecond), func() {
		n.hostDue = false
		n.host.Run()
	})
}

// pokeDisk lets the store do its next piece of work when the disk has done it.
func (n *node) pokeDisk() {
	if n.workDue || !n.up {
		return
	}
	n.workDue = true
	n.after(n.disk.duration(), func() {
		n.workDue = false
		if n.store.work() {
			n.pokeDisk()
		}
		n.poke()
	})
}

// ticks passes the host's time. The store is looked after now and then, as some of its work is due without
// a write.
func (n *node) ticks() {
	n.after(n.clock.until(tickInterval), func() {
		n.host.Tick()
		n.poke()
		n.pokeDisk()
		n.ticks()
	})
}

const tickInterval = 100 * time.Millisecond

// boot starts the process: it opens the disk, compares what is on it with what must be, and starts the
// replicas that belong here.
func (n *node) boot() {
	c := n.cluster
	if n.up || c.check.failed() {
		return
	}
	c.stats.Starts++
	c.world.log("node %d starts", n.index+1)
	n.up = true
	err := n.openStore()
	if n.disk.dying() {
		n.die(n.disk.loss)
		return
	}
	if err != nil {
		n.up = false
		n.damaged(err)
		return
	}
	if n.host, err = raft.Open(n.hostConfig()); err != nil {
		c.check.fail(CheckProcess, "node %d: %v", n.index+1, err)
		return
	}
	n.running = make(map[uint64]*replica)
	n.members = make(map[uint64]*core.Membership)
	n.before = make(map[uint64]*core.Membership)
	c.net.disconnect(n.index)
	if c.cfg.Mutant == MutantEmptyRetainer || chance(n.rnd, 0.3) {
		n.lag()
	}
	n.call(n.openAll)
	n.ticks()
}

// startLag is for how long at most a host does not get to its groups after its start, while the store does its
// own work.
const startLag = 300 * time.Millisecond

// lag keeps the host from running for a while: it may be busy with other groups, of which a real node has
// thousands. Until then machines whose state is stored do not have it.
func (n *node) lag() {
	n.hostDue = true
	d := between(n.rnd, time.Millisecond, startLag)
	n.cluster.world.log("node %d gets to its groups after %v", n.index+1, d)
	n.after(d, func() {
		n.hostDue = false
		n.poke()
	})
	for at := time.Duration(0); at < d; at += between(n.rnd, time.Millisecond, startLag/8) {
		n.after(at, n.pokeDisk)
	}
}

// openStore opens what is on the disk.
func (n *node) openStore() error {
	s, err := n.disk.open(n)
	if err != nil {
		return err
	}
	n.store = s
	damaged, err := s.verify(sortedKeys(n.disk.logs), true)
	if err == nil && damaged > 0 {
		n.cluster.stats.Damaged += uint64(damaged)
		n.cluster.world.log("node %d starts with %d damaged entries and objects", n.index+1, damaged)
		if !n.suspect {
			n.cluster.check.fail(CheckDurability, "node %d, at its start: %d entries and objects are damaged", n.index+1, damaged)
		}
	}
	if damage := (*journal.CorruptError)(nil); err != nil && !errors.As(err, &damage) {
		// Whatever happened to the disk: what is not there any more must not go unnoticed.
		n.cluster.check.fail(CheckDurability, "node %d, at its start: %v", n.index+1, err)
	}
	return err
}

// damaged is called when a disk cannot be used: that is right only if it was damaged, and is the end of its
// replicas.
func (n *node) damaged(err error) {
	c := n.cluster
	if n.full && vfs.IsNoSpace(err) {
		c.world.log("node %d cannot start on its full disk: %v", n.index+1, err)
		n.forget()
		c.world.after(time.Second, n.boot)
		return
	}
	if !n.suspect {
		c.check.fail(CheckDurability, "node %d cannot start: %v", n.index+1, err)
		return
	}
	c.world.log("node %d cannot start with its damaged disk: %v", n.index+1, err)
	n.forget()
	n.renew()
	c.world.after(between(n.rnd, 0, time.Second), n.boot)
}

func (n *node) hostConfig() raft.Config {
	c := n.cluster
	rnd := c.world.source(fmt.Sprintf("host %d, life %d", n.index+1, n.life))
	return raft.Config{
		Node: uint64(n.index + 1), Log: n.store, Transport: transport{c.net, n.index}, Manual: true, Now: n.now, Rand: rnd,
		Logger: c.logger(n.index + 1),
		NodeOf: func(replica uint64) uint64 {
			if p := c.byReplica[replica]; p != nil {
				return uint64(p.node + 1)
			}
			return 0
		},
		Admit: n.store.admit, AdmitControl: n.store.admitControl,
		OnGroupFailure: n.groupFailed,
		OnRemoved: func(id raft.GroupID) {
			c.world.log("group %d on node %d: removed", id, n.index+1)
		},
		TickInterval:  tickInterval,
		SnapshotBytes: c.tune.snapshotBytes, SnapshotFactor: 1, CompactMargin: c.tune.margin, ChunkBytes: c.tune.chunk,
		TransferWindow: 4 * c.tune.chunk, SleepAfter: c.tune.sleep, DeadAfter: c.tune.dead,
		MaxPendingBytes: 64 << 10, MaxApplyBytes: 16 << 10,
		MaxInboxBytes: 256 << 10, CheckInterval: checkInterval,
	}
}

// checkInterval is the time between two comparisons of a group's states.
const checkInterval = 3 * time.Second

// scrubInterval is the time in which a node reads its disk once.
const scrubInterval = 4 * time.Second

// repair has brought back what the journal of the node has found damaged.
func (n *node) repair(d journal.Damaged) {
	r := n.running[d.Group]
	if r == nil {
		return
	}
	n.host.Repair(raft.GroupID(r.placement.group), d.Group, raft.Damage{Object: d.Object, At: d.At}, n.repaired)
	n.poke()
}

func (n *node) repaired(err error) {
	if err == nil {
		n.cluster.stats.Repaired++
	}
}

// groupFailed is told by the host that it has given up a replica.
func (n *node) groupFailed(id raft.GroupID, err error) {
	c := n.cluster
	r := n.serving(uint64(id))
	if r == nil {
		return
	}
	if !n.suspect {
		c.check.fail(CheckProcess, "%v failed: %v", r, err)
		return
	}
	c.world.log("%v failed on a damaged disk: %v", r, err)
}

// openAll starts the replicas that do not run.
func (n *node) openAll() {
	for _, p := range n.cluster.on(n.index) {
		if n.running[p.log] == nil {
			n.open(p)
		}
	}
}

// open starts a replica.
func (n *node) open(p *placement) {
	c := n.cluster
	r := &replica{node: n, placement: p, waiting: make(map[publishID][]*waiter)}
	r.machine = newMachine(n.store, p.log, r)
	r.machine.forgetful = c.cfg.Mutant == MutantForgetfulSnapshot
	var m raft.Machine = r.machine
	voters := p.voters
	if c.cfg.Mutant == MutantNoQuorumOverlap && n.life%3 == 2 {
		voters = []uint64{p.replica} // "the others are gone, I know"
	}
	if c.cfg.Mutant == MutantApplyOutOfOrder {
		m = &disorderly{machine: r.machine, every: 40}
	}
	if c.cfg.Mutant == MutantEmptyRetainer {
		n.store.Retain(p.log, r.machine)
	}
	group, err := n.host.Start(raft.GroupSpec{
		ID: raft.GroupID(p.group), Log: p.log, Replica: p.replica, Voters: voters,
	}, m)
	switch {
	case errors.Is(err, raft.ErrGroupExists):
		return // an earlier replica is not gone yet
	case err != nil && n.suspect:
		c.world.log("%v does not start on a damaged disk: %v", p, err)
		return
	case err != nil:
		c.check.fail(CheckProcess, "%v does not start: %v", p, err)
		return
	}
	c.world.log("%v runs", p)
	r.group, p.machine = group, r.machine
	p.commit, p.applied, p.term = 0, 0, 0
	n.running[p.log] = r
}

// remove stops a replica and deletes its log.
func (n *node) remove(p *placement) {
	if r := n.running[p.log]; r != nil {
		r.group.Stop()
		delete(n.running, p.log)
	}
	p.machine = nil
	if n.disk.logs[p.log] != nil {
		n.store.Drop(p.log, nil)
	}
}

// status returns what a running replica says of itself.
func (n *node) status(p *placement) (core.Status, bool) {
	r := n.running[p.log]
	if r == nil {
		return core.Status{}, false
	}
	s, err := r.group.Status(context.Background())
	if err != nil {
		return core.Status{}, false
	}
	m := s.Members
	if last := n.members[p.log]; last == nil || !equalMembers(last, &m) {
		n.before[p.log], n.members[p.log] = last, &m
	}
	return s, true
}

// change asks a replica for a membership change.
func (n *node) change(p *placement, change core.Change) {
	r := n.running[p.log]
	if r == nil {
		return
	}
	c := n.cluster
	r.group.ChangeMembers(change, func(err error) {
		switch {
		case err == nil:
			c.stats.Changes++
			c.world.log("%v: changed %+v", p, change)
		case errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrChanging) || errors.Is(err, raft.ErrStopped):
			c.world.log("%v: not changed %+v: %v", p, change, err)
		default:
			// The operator may have looked at another replica's view of the membership.
			c.world.log("%v: refused %+v: %v", p, change, err)
		}
	})
}

// transfer asks a replica to hand over.
func (n *node) transfer(p *placement, to uint64) {
	if r := n.running[p.log]; r != nil {
		r.group.TransferLeader(to)
	}
}

// restart ends the process in order, and boots it again after the outage.
func (n *node) restart(outage time.Duration) {
	c := n.cluster
	if !n.up || n.paused || n.full || n.disk.slow > 1 {
		return
	}
	c.world.log("node %d is restarted, after %v", n.index+1, outage)
	n.enter(func() {
		if err := errors.Join(n.host.Close(), n.store.close()); err != nil && !n.disk.dying() {
			c.check.fail(CheckProcess, "node %d: close: %v", n.index+1, err)
		}
	})
	if !n.up {
		return // a crash that was due has come first
	}
	n.disk.closed()
	n.forget()
	c.net.reset(n.index)
	c.world.after(outage, n.boot)
}

// verifyDisk compares the disk of a running node with what must be on it, by a recovery of what a power loss
// at this moment would leave.
func (n *node) verifyDisk() {
	c := n.cluster
	if !n.up || n.suspect {
		return
	}
	c.stats.Recoveries++
	if err := n.disk.verify(n, vfs.LoseUnsynced); err != nil {
		c.check.fail(CheckDurability, "node %d, if the power went off now: %v", n.index+1, err)
	}
}

// discard is a logger for those who want none.
var discard = slog.New(slog.DiscardHandler)
