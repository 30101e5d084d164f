package sim

import (
	"errors"
	"fmt"
	"slices"

	"millrace/raft"
	"millrace/raft/core"
	"millrace/storage/journal"
)

// The checkers, as a Failure names them.
const (
	CheckDurability   = "durability"   // a disk holds what its store answered for
	CheckQuorum       = "quorum"       // an acknowledged operation is on a quorum of disks
	CheckPromise      = "promise"      // what a message says is on its sender's disk when it leaves
	CheckAgreement    = "agreement"    // one index, one content
	CheckLeader       = "leader"       // one leader a term
	CheckCommit       = "commit"       // commit and applied index only grow, applied <= commit
	CheckDigest       = "digest"       // equal index, equal state
	CheckSurvival     = "survival"     // what was acknowledged is there at the end
	CheckOnce         = "once"         // a publish happens once
	CheckRead         = "read"         // what is stored can be read, unchanged
	CheckStale        = "stale"        // a read sees what was applied anywhere before it
	CheckLinearizable = "linearizable" // registers behave as one copy
	CheckLiveness     = "liveness"     // without faults everything goes on
	CheckProcess      = "process"      // no panic, no group given up, no node that cannot start
	CheckResources    = "resources"    // goroutines, memory
)

// Failure is what a checker found.
type Failure struct {
	Check string // one of the constants
	Text  string
	Stack string // of a panic
}

func (f *Failure) Error() string { return f.Check + ": " + f.Text }

// checker looks at all that happens. After the first failure the run ends.
type checker struct {
	world   *world
	blind   string // this one does not look
	failure *Failure
	groups  map[uint64]*groupHistory

	damaged func(node int) bool // bits of its disk were flipped
	repair  func(p *placement, index uint64, part raft.Range)

	acks, reads, applied uint64
}

// groupHistory is what is known of a group, over all replicas and all time.
type groupHistory struct {
	contents  map[uint64]uint32        // checksum by index of what was applied
	digests   map[uint64]uint64        // digest by index
	leaders   map[uint64]uint64        // replica by term
	publishes map[publishID][]numbered // when an id was published, and with which answer
	published uint64                   // publish entries so far
	highest   uint64                   // index applied anywhere
	deleted   map[uint64]bool          // messages that a delete was applied to
	messages  map[uint64]uint32        // checksum by number
	operations
}

// numbered is the n-th publish entry of a group, which answered number.
type numbered struct{ nth, number uint64 }

func newChecker(w *world, blind string) *checker {
	return &checker{world: w, blind: blind, groups: make(map[uint64]*groupHistory)}
}

func (c *checker) group(id uint64) *groupHistory {
	g := c.groups[id]
	if g == nil {
		g = &groupHistory{
			contents: make(map[uint64]uint32), digests: make(map[uint64]uint64), leaders: make(map[uint64]uint64),
			publishes: make(map[publishID][]numbered), deleted: make(map[uint64]bool), messages: make(map[uint64]uint32),
			operations: newOperations(),
		}
		c.groups[id] = g
	}
	return g
}

// failed reports whether a checker has found something.
func (c *checker) failed() bool { return c.failure != nil }

func (c *checker) fail(check, format string, args ...any) {
	if c.failure == nil && check != c.blind {
		c.failure = &Failure{Check: check, Text: fmt.Sprintf(format, args...)}
		c.world.log("FAILURE %v", c.failure)
	}
}

// digestEvery is for how many indexes the state's digest is compared once.
const digestEvery = 4

// entry is called for each entry that a machine applies.
func (c *checker) entry(p *placement, m *machine, index uint64, data []byte, cmd *command, r result) {
	c.applied++
	g := c.group(p.group)
	sum := checksum32(data)
	was, seen := g.contents[index]
	if seen && was != sum {
		c.fail(CheckAgreement, "%v applies another entry %d (%s of client %d) than was applied before",
			p, index, cmd.kind, cmd.client)
	}
	if !seen {
		if index <= g.highest {
			c.fail(CheckAgreement, "%v applies entry %d, which others that applied entry %d did not", p, index, g.highest)
		}
		g.contents[index] = sum
		g.highest = index
		c.first(g, p, index, cmd, r)
	}
	if index%digestEvery == 0 {
		c.digest(p, index, m.digest())
	}
}

// first is called for an entry when it is applied for the first time.
func (c *checker) first(g *groupHistory, p *placement, index uint64, cmd *command, r result) {
	g.operations.committed(cmd, c.world.now)
	switch cmd.kind {
	case opDelete:
		g.deleted[cmd.key] = true
	case opPublish:
		g.published++
		id := publishID{cmd.client, cmd.id}
		earlier := g.publishes[id]
		if n := len(earlier); n > 0 {
			last := earlier[n-1]
			fresh := last.nth
			for _, e := range earlier {
				if e.number == last.number {
					fresh = e.nth // when it was really published
					break
				}
			}
			if r.number() != last.number && c.within(g, fresh) {
				c.fail(CheckOnce, "%v publishes %v of entry %d again as message %d, it is message %d",
					p, id, index, r.value, last.number)
			}
		}
		g.publishes[id] = append(earlier, numbered{g.published, r.value})
		for i, m := range cmd.messages {
			if _, ok := g.messages[r.value+uint64(i)]; !ok {
				g.messages[r.value+uint64(i)] = checksum32(m)
			}
		}
	}
}

func (r result) number() uint64 { return r.value }

// within reports whether a publish that really happened as the nth publish entry is inside the window for
// sure: others that happened since are at most all publish entries since.
func (c *checker) within(g *groupHistory, nth uint64) bool { return g.published-nth <= dedupeWindow }

// digest compares states.
func (c *checker) digest(p *placement, index, digest uint64) {
	g := c.group(p.group)
	if was, ok := g.digests[index]; ok && was != digest {
		c.fail(CheckDigest, "%v has another state after entry %d than others had", p, index)
	}
	g.digests[index] = digest
	c.world.note("applied", p.group, p.replica, index, digest)
}

// lead is called when a replica leads and is ready.
func (c *checker) lead(p *placement, term uint64) {
	g := c.group(p.group)
	if was, ok := g.leaders[term]; ok && was != p.replica {
		c.fail(CheckLeader, "%v and replica %d both lead in term %d", p, was, term)
	}
	g.leaders[term] = p.replica
	c.world.log("%v leads in term %d", p, term)
}

// status is called now and then for each running replica.
func (c *checker) status(p *placement, s *core.Status) {
	if s.Applied > s.Commit {
		c.fail(CheckCommit, "%v has applied entry %d, committed is entry %d", p, s.Applied, s.Commit)
	}
	if s.Commit < p.commit || s.Applied < p.applied || s.Term < p.term {
		c.fail(CheckCommit, "%v went from term %d, commit %d, applied %d back to %d, %d, %d",
			p, p.term, p.commit, p.applied, s.Term, s.Commit, s.Applied)
	}
	p.commit, p.applied, p.term = s.Commit, s.Applied, s.Term
	if s.Role == core.Leader {
		g := c.group(p.group)
		if was, ok := g.leaders[s.Term]; ok && was != p.replica {
			c.fail(CheckLeader, "%v and replica %d both lead in term %d", p, was, s.Term)
		}
		g.leaders[s.Term] = p.replica
	}
}

// quorum reports whether a majority of voters is among those for which has is true; in a joint
// configuration a majority of each half.
func quorum(members *core.Membership, has func(replica uint64) bool) bool {
	majority := func(voters []uint64) bool {
		n := 0
		for _, v := range voters {
			if has(v) {
				n++
			}
		}
		return len(voters) == 0 || n > len(voters)/2
	}
	return len(members.Voters) > 0 && majority(members.Voters) && majority(members.Outgoing)
}

// ends checks what was acknowledged against the machine of a member, at the end.
func (c *checker) ends(p *placement, m *machine) {
	g := c.group(p.group)
	for _, a := range g.acked {
		if a.command.kind != opPublish {
			continue
		}
		for i, data := range a.command.messages {
			number := a.result.value + uint64(i)
			at, ok := m.find(number)
			switch {
			case !ok && !g.deleted[number]:
				c.fail(CheckSurvival, "%v has not message %d, which client %d was told of", p, number, a.client)
				return
			case ok && m.records[at].sum != checksum32(data):
				c.fail(CheckSurvival, "%v has another message %d than client %d was told of", p, number, a.client)
				return
			}
		}
	}
	c.readable(p, m, len(m.records))
}

// readable reads up to n messages, from the newest on, and compares their bytes.
func (c *checker) readable(p *placement, m *machine, n int) {
	for i := len(m.records) - 1; i >= 0 && n > 0; i, n = i-1, n-1 {
		c.readOne(p, m, &m.records[i])
	}
}

// readOne reads a message and compares its bytes. One that was deleted further on in the log may be gone:
// this replica may have been restored to a state before that.
func (c *checker) readOne(p *placement, m *machine, r *record) {
	if c.group(p.group).deleted[r.number] {
		return
	}
	data, err := m.read(r)
	var damage *journal.CorruptError
	switch {
	case errors.As(err, &damage) && c.damaged(p.node):
		c.repair(p, r.index, r.part)
	case err != nil:
		c.fail(CheckRead, "%v, applied %d: message %d of entry %d: %v", p, m.applied, r.number, r.index, err)
	case checksum32(data) != r.sum:
		c.fail(CheckRead, "%v: message %d of entry %d has other bytes", p, r.number, r.index)
	}
}

// ordered checks that each client's acknowledged publishes have ascending numbers.
func (c *checker) ordered() {
	for id, g := range c.groups {
		last := make(map[uint64]ackedOperation)
		for _, a := range g.acked {
			if a.command.kind != opPublish {
				continue
			}
			if was, ok := last[a.client]; ok && was.command.id < a.command.id && was.result.value >= a.result.value {
				c.fail(CheckSurvival, "group %d: client %d published %d as message %d, then %d as message %d", id,
					a.client, was.command.id, was.result.value, a.command.id, a.result.value)
			}
			last[a.client] = a
		}
	}
}

// equal checks that all members' machines of a group have the same state.
func (c *checker) equal(members []*placement) {
	slices.SortFunc(members, func(a, b *placement) int { return compare(a.replica, b.replica) })
	for _, p := range members[1:] {
		a, b := members[0], p
		if a.machine.digest() != b.machine.digest() {
			c.fail(CheckDigest, "at the end %v has state %x after entry %d, %v has %x after %d", a, a.machine.digest(),
				a.machine.applied, b, b.machine.digest(), b.machine.applied)
		}
	}
}
