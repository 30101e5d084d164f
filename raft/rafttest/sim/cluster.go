package sim

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"millrace/raft"
	"millrace/raft/core"
)

// Config is one run.
type Config struct {
	Seed    uint64
	Nodes   int           // 3 to 5; 0: drawn
	Groups  int           // 0: drawn, 1 to 5
	Clients int           // 0: drawn
	Faults  time.Duration // virtual time with faults. 0: drawn, 20 to 60 s
	Without []Fault       // classes of faults that do not happen
	Likes   []Fault       // those that happen, and often; nil: as drawn
	Late    bool          // bits flip where something was written lately
	Bits    int           // so many more bits are flipped at once
	Twice   bool          // frames come twice now and then
	Ideal   bool          // logs in memory in place of the journal
	Mutant  Mutant
	Blind   string    // a checker that does not look: what it would find is left to the others
	Trace   io.Writer // gets what happens, line by line; nil: nobody
	Every   bool      // every message and every applied entry, too
}

// Result is how a run ended.
type Result struct {
	Seed    uint64
	Failure *Failure // nil: no checker found anything
	Hash    uint64   // of all that happened
	Stats   Stats
}

// Stats counts what a run has done, to see that it has done something.
type Stats struct {
	Virtual                                         time.Duration
	Events, Frames, Lost, Promises                  uint64
	Answered, Refused, Undecided, Reads             uint64
	Applied, Leaders                                uint64
	Crashes, Starts, Changes, Snapshots, Recoveries uint64
	Wiped, Flips, Faults, UndecidedHistories        uint64
	Damaged, Repaired                               uint64 // entries and objects
}

// add adds the counts of another run.
func (s *Stats) add(o *Stats) {
	s.Virtual += o.Virtual
	for _, c := range []struct{ to, from *uint64 }{
		{&s.Events, &o.Events}, {&s.Frames, &o.Frames}, {&s.Lost, &o.Lost}, {&s.Promises, &o.Promises}, {&s.Answered, &o.Answered},
		{&s.Refused, &o.Refused}, {&s.Undecided, &o.Undecided}, {&s.Reads, &o.Reads}, {&s.Applied, &o.Applied}, {&s.Leaders, &o.Leaders},
		{&s.Crashes, &o.Crashes}, {&s.Starts, &o.Starts}, {&s.Changes, &o.Changes}, {&s.Snapshots, &o.Snapshots},
		{&s.Recoveries, &o.Recoveries}, {&s.Wiped, &o.Wiped}, {&s.Flips, &o.Flips}, {&s.Faults, &o.Faults},
		{&s.UndecidedHistories, &o.UndecidedHistories}, {&s.Damaged, &o.Damaged}, {&s.Repaired, &o.Repaired},
	} {
		*c.to += *c.from
	}
}

// placement is one replica: which group, under which id, on which node. It is what the meta group of a
// cluster would remember, and outlives the node's process.
type placement struct {
	group, replica, log uint64
	node                int
	voters              []uint64 // with which the group's log began
	leaving             bool     // to be removed from the group
	lost                bool     // its disk is gone or cannot be trusted
	retired             bool     // not a member any more
	held                *image   // what its disk held when it was lost

	// Of the running replica, nil or zero without one.
	machine               *machine
	commit, applied, term uint64
}

func (p *placement) String() string {
	return fmt.Sprintf("group %d replica %d on node %d", p.group, p.replica, p.node+1)
}

// cluster is all nodes of a run.
type cluster struct {
	cfg         Config
	tune        tuning
	byReplica   map[uint64]*placement
	world       *world
	net         *network
	nodes       []*node
	check       *checker
	clients     []*client
	groups      []uint64
	placements  map[uint64][]*placement // by group
	lastReplica uint64                  // ids are unique over all groups
	looks       *rand.Rand
	promises    uint64        // messages that were checked when they left
	quiet       time.Duration // until then clients ask nothing
	leasing     time.Duration // until then the clocks belong to a test of leases
	faults      bool          // the nemesis is at work
	stats       Stats
}

// goroutinesEnd is the real time that porcupine's goroutines have to end after its answer.
const goroutinesEnd = 10 * time.Second

// Run makes one run. It uses crypto/rand.Reader, so that one process makes one run at a time.
func Run(cfg Config) (r Result) {
	w := newWorld(cfg.Seed, cfg.Trace)
	w.all = cfg.Every
	restore := seedProcess(w)
	defer restore()
	c := newCluster(cfg, w)
	goroutines := runtime.NumGoroutine()
	defer func() {
		if p := recover(); p != nil {
			c.check.fail(CheckProcess, "panic: %v", p)
			c.check.failure.Stack = string(debug.Stack())
		}
		for begin := time.Now(); runtime.NumGoroutine() > goroutines && time.Since(begin) < goroutinesEnd; {
			runtime.Gosched()
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			c.check.fail(CheckResources, "%d goroutines were left behind", n-goroutines)
		}
		r = c.result()
	}()
	c.run()
	return r
}

func newCluster(cfg Config, w *world) *cluster {
	rnd := w.source("cluster")
	draw := func(n *int, lo, hi int) {
		if d := lo + rnd.IntN(hi-lo+1); *n == 0 {
			*n = d
		}
	}
	draw(&cfg.Nodes, 3, 5)
	cfg.Late = cfg.Late || cfg.Mutant == MutantTornAlways
	if cfg.Mutant == MutantWrongRepair || cfg.Mutant == MutantTornAlways {
		cfg.Bits = 150
	}
	draw(&cfg.Groups, 1, 5)
	draw(&cfg.Clients, 2, 8)
	if d := between(rnd, 20*time.Second, 60*time.Second); cfg.Faults == 0 {
		cfg.Faults = d
	}
	c := &cluster{
		cfg: cfg, world: w, check: newChecker(w, cfg.Blind), placements: make(map[uint64][]*placement),
		byReplica: make(map[uint64]*placement), tune: newTuning(rnd), looks: w.source("looks"),
	}
	var ends []endpoint
	for i := range cfg.Nodes {
		n := newNode(c, i)
		c.nodes = append(c.nodes, n)
		ends = append(ends, n)
	}
	c.net = newNetwork(w, ends)
	c.net.left = c.left
	c.check.damaged = func(node int) bool { return c.nodes[node].suspect }
	c.check.repair = func(p *placement, index uint64, part raft.Range) {
		n := c.nodes[p.node]
		n.host.Repair(raft.GroupID(p.group), p.log, raft.Damage{At: index, Off: part.Off, Len: part.Len}, n.repaired)
		n.poke()
	}
	if cfg.Twice {
		c.net.twice = 0.2
	}
	for g := range uint64(cfg.Groups) {
		id := g + 1
		c.groups = append(c.groups, id)
		members := rnd.Perm(cfg.Nodes)[:min(cfg.Nodes, 3+2*rnd.IntN(2))]
		slices.Sort(members)
		var voters []uint64
		for i := range members {
			voters = append(voters, c.lastReplica+uint64(i+1))
		}
		for _, node := range members {
			c.place(id, node, voters)
		}
	}
	for i := range cfg.Clients {
		c.clients = append(c.clients, newClient(c, uint64(i+1)))
	}
	w.log("seed %d: %d nodes, %d groups, %d clients, %v of faults", cfg.Seed, cfg.Nodes, cfg.Groups, cfg.Clients,
		cfg.Faults)
	return c
}

// logOf names the log of a replica.
func logOf(replica uint64) uint64 { return 100 + replica }

// place notes a new replica.
func (c *cluster) place(group uint64, node int, voters []uint64) *placement {
	c.lastReplica++
	p := &placement{group: group, replica: c.lastReplica, log: logOf(c.lastReplica), node: node, voters: voters}
	c.placements[group] = append(c.placements[group], p)
	c.byReplica[p.replica] = p
	c.world.log("%v is placed, log %d, voters %d", p, p.log, voters)
	return p
}

// on returns the placements that a node has to run, in the order of the groups.
func (c *cluster) on(node int) (all []*placement) {
	for _, g := range c.groups {
		for _, p := range c.placements[g] {
			if p.node == node && !p.retired && !p.lost {
				all = append(all, p)
			}
		}
	}
	return all
}

// run lets the cluster work with faults, then without, and checks what is left.
func (c *cluster) run() {
	w := c.world
	for _, n := range c.nodes {
		w.after(between(w.source("boot"), 0, 10*time.Millisecond), n.boot)
	}
	for _, cl := range c.clients {
		cl.start()
	}
	c.every(50*time.Millisecond, c.net.watch)
	c.every(100*time.Millisecond, c.observe)
	c.every(300*time.Millisecond, c.operate)
	w.after(settleBefore, c.nemesis)
	c.faults = true
	w.runUntil(settleBefore+c.cfg.Faults, c.check.failed)
	if c.check.failed() {
		return
	}
	c.heal()
	c.settle()
	if c.check.failed() {
		return
	}
	c.check.ordered()
	c.stats.UndecidedHistories = uint64(c.check.linearizable())
}

// settleBefore is the time without faults at the beginning of a run.
const settleBefore = 5 * time.Second

// every calls a function again and again.
func (c *cluster) every(d time.Duration, fn func()) {
	var again func()
	again = func() {
		fn()
		c.world.after(d, again)
	}
	c.world.after(d, again)
}

// settlePatience is how long a cluster without faults may take until all groups answer and all replicas are
// equal.
const settlePatience = 60 * time.Second

// settle waits until every group answers operations and all its members are equal.
func (c *cluster) settle() {
	w := c.world
	w.log("the faults end")
	end := w.now + settlePatience
	answered := make(map[uint64]int)
	for _, g := range c.groups {
		answered[g] = len(c.check.group(g).acked)
	}
	waiting := "nothing"
	serving := func() bool {
		for _, g := range c.groups {
			if len(c.check.group(g).acked) < answered[g]+5 {
				waiting = fmt.Sprintf("group %d to answer operations%s", g, c.describe(g))
				return false
			}
			if c.changing(g) {
				waiting = fmt.Sprintf("the members of group %d%s", g, c.describe(g))
				return false
			}
		}
		return true
	}
	c.wait(end, serving, &waiting)
	for _, cl := range c.clients {
		cl.stopped = true
	}
	idle := func() bool {
		for _, cl := range c.clients {
			if cl.op != nil {
				waiting = fmt.Sprintf("client %d for %v", cl.id, cl.op)
				return false
			}
		}
		return true
	}
	c.wait(end, idle, &waiting)
	converged := func() bool {
		for _, g := range c.groups {
			for _, p := range c.members(g) {
				if p.machine == nil || p.machine.applied < c.check.group(g).highest {
					waiting = fmt.Sprintf("%v to apply entry %d%s", p, c.check.group(g).highest, c.describe(g))
					return false
				}
			}
		}
		return true
	}
	c.wait(end, converged, &waiting)
	if c.check.failed() {
		return
	}
	for _, g := range c.groups {
		members := c.members(g)
		for _, p := range members {
			c.check.ends(p, p.machine)
		}
		c.check.equal(members)
	}
	for _, n := range c.nodes {
		n.verifyDisk()
	}
}

// wait runs until a condition is true; when that takes too long, the cluster does not live.
func (c *cluster) wait(end time.Duration, done func() bool, what *string) {
	for !c.check.failed() && !done() {
		if c.world.now >= end {
			c.check.fail(CheckLiveness, "%v after the last fault: still waiting for %s", settlePatience, *what)
			return
		}
		c.world.runUntil(c.world.now+50*time.Millisecond, c.check.failed)
	}
}

// members returns the placements that a group's leader has for members; without a leader those that are not
// retired.
func (c *cluster) members(group uint64) (all []*placement) {
	s := c.leader(group)
	for _, p := range c.placements[group] {
		if p.retired {
			continue
		}
		if s == nil || isMember(&s.Members, p.replica) {
			all = append(all, p)
		}
	}
	return all
}

func isMember(m *core.Membership, replica uint64) bool {
	return slices.Contains(m.Voters, replica) || slices.Contains(m.Learners, replica) ||
		slices.Contains(m.Outgoing, replica) || slices.Contains(m.LearnersNext, replica)
}

// leader returns the status of the replica that leads a group in the newest term, nil when there is none.
func (c *cluster) leader(group uint64) *core.Status {
	s, _ := c.leading(group)
	return s
}

func (c *cluster) leading(group uint64) (best *core.Status, at *placement) {
	for _, p := range c.placements[group] {
		n := c.nodes[p.node]
		if p.retired || !n.alive() || n.paused {
			continue
		}
		if s, ok := n.status(p); ok && s.Role == core.Leader && (best == nil || s.Term > best.Term) {
			best, at = &s, p
		}
	}
	return best, at
}

// describe tells how the replicas of a group are, for the report of a failure.
func (c *cluster) describe(group uint64) string {
	text := ""
	for _, p := range c.placements[group] {
		if p.retired {
			continue
		}
		text += fmt.Sprintf("\n  %v: ", p)
		n := c.nodes[p.node]
		if s, ok := n.status(p); ok {
			text += fmt.Sprintf("term %d, lead %d, role %d, commit %d, applied %d, last %d, members %v",
				s.Term, s.Lead, s.Role, s.Commit, s.Applied, s.Last, s.Members)
			for _, pr := range s.Progress {
				text += fmt.Sprintf(" %+v", pr)
			}
		} else {
			text += fmt.Sprintf("not running (node up %t, lost %t, leaving %t)", n.alive(), p.lost, p.leaving)
		}
	}
	return text
}

// verifyShare is how often a look at a node includes a recovery of its disk.
const verifyShare = 0.02

// maxEvents is how much may be going on at once.
const maxEvents = 1 << 20

// observe looks at all replicas.
func (c *cluster) observe() {
	if n := len(c.world.queue); n > maxEvents {
		c.check.fail(CheckResources, "%d events are scheduled", n)
	}
	for _, n := range c.nodes {
		if !n.alive() || n.paused {
			continue
		}
		if chance(c.looks, verifyShare) {
			n.verifyDisk()
		}
		for _, p := range c.on(n.index) {
			s, ok := n.status(p)
			if !ok {
				continue
			}
			c.check.status(p, &s)
			if m := p.machine; m != nil && len(m.records) > 0 {
				c.check.readOne(p, m, &m.records[c.looks.IntN(len(m.records))])
			}
		}
	}
}

// acknowledged is called at the moment at which a replica answers an operation of entry index.
func (c *cluster) acknowledged(p *placement, index uint64, data []byte) {
	n := c.nodes[p.node]
	s, ok := n.status(p)
	if !ok {
		return
	}
	term, err := n.store.Term(p.log, index)
	if err != nil {
		c.check.fail(CheckQuorum, "%v answers for entry %d: %v", p, index, err)
		return
	}
	e := mark{index: index, term: term, sum: checksum32(data)}
	holders := ""
	has := func(replica uint64) bool {
		q := c.byReplica[replica]
		if q == nil {
			return false
		}
		held := q.held // a disk that was lost after it had the entry has done its part
		if l := c.nodes[q.node].disk.logs[q.log]; !q.lost && l != nil {
			held = &l.durable
		}
		ok := held != nil && held.holds(e)
		holders += fmt.Sprintf(" %d:%t", replica, ok)
		return ok
	}
	members := s.Members
	if quorum(&members, has) {
		return
	}
	// The entry may have been committed in the configuration before, whose members it was sent to.
	if before := n.before[p.log]; before != nil && quorum(before, has) {
		return
	}
	c.check.fail(CheckQuorum, "%v answers for entry %d of term %d, which is not on the disks of a quorum of %+v:%s",
		p, index, term, members, holders)
}

func (c *cluster) result() Result {
	s := c.stats
	s.Virtual, s.Events = c.world.now, c.world.steps
	s.Frames, s.Lost, s.Promises, s.Applied = c.net.frames, c.net.lost, c.promises, c.check.applied
	s.Reads = c.check.reads
	for _, g := range c.check.groups {
		s.Leaders += uint64(len(g.leaders))
	}
	return Result{Seed: c.cfg.Seed, Failure: c.check.failure, Hash: c.world.hash.Sum64(), Stats: s}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func equalMembers(a, b *core.Membership) bool {
	return slices.Equal(a.Voters, b.Voters) && slices.Equal(a.Learners, b.Learners) && slices.Equal(a.Outgoing, b.Outgoing) &&
		slices.Equal(a.LearnersNext, b.LearnersNext)
}

// tuning is what hosts are configured with: small bounds, so that little work reaches them.
type tuning struct {
	snapshotBytes, margin int64
	chunk                 int
	sleep, dead           time.Duration
	segment               int64
}

func newTuning(rnd *rand.Rand) tuning {
	return tuning{
		snapshotBytes: []int64{4 << 10, 16 << 10, 64 << 10, 1 << 20}[rnd.IntN(4)],
		margin:        []int64{1, 8 << 10, 1 << 20}[rnd.IntN(3)],
		chunk:         []int{512, 4 << 10, 64 << 10}[rnd.IntN(3)],
		segment:       []int64{64 << 10, 128 << 10, 1 << 20}[rnd.IntN(3)],
		dead:          []time.Duration{1500 * time.Millisecond, 2 * time.Second, 2500 * time.Millisecond}[rnd.IntN(3)],
		sleep:         []time.Duration{500 * time.Millisecond, 2 * time.Second, 5 * time.Second}[rnd.IntN(3)],
	}
}

// logger returns what a host or journal logs to: the trace, if there is one.
func (c *cluster) logger(node int) *slog.Logger {
	if c.world.trace == nil {
		return discard
	}
	return slog.New(slog.NewTextHandler(traceWriter{c.world, node}, &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// traceWriter puts what a node logs into the trace.
type traceWriter struct {
	world *world
	node  int
}

func (t traceWriter) Write(p []byte) (int, error) {
	t.world.printf("node %d: %s", t.node, bytes.TrimSpace(p))
	return len(p), nil
}
