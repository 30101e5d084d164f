package formation

import (
	"bytes"
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// world is a simulated mesh: nodes with disks, and a network that drops, delays, repeats and reorders.
// One seed makes one run.
type world struct {
	rng   *rand.Rand
	now   time.Time
	nodes []*simNode
	queue events
	order int // breaks ties of time, so that a run is determined

	drop, repeat float64
	delay        time.Duration // at most
	severed      [][]bool      // from, to
	crash        float64       // chance of a crash in a step
	cut          float64       // chance that who decides is cut off before it can tell
	mutant       string

	decisions []Value // all that were ever announced by anybody, without repetition
	problems  []string
}

type simNode struct {
	id     uint64
	size   int
	disk   []byte // the stored state
	m      *Machine
	up     bool
	random *rand.Rand
	alone  time.Time // cut off until then
}

type event struct {
	at    time.Time
	order int
	fn    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

func newWorld(seed uint64, nodes int, mutant string) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_000_000, 0), mutant: mutant,
	}
	for range nodes {
		w.severed = append(w.severed, make([]bool, nodes))
	}
	for i := range nodes {
		n := &simNode{id: uint64(i+1)<<20 | w.rng.Uint64N(1<<20), size: nodes}
		n.random = rand.New(rand.NewPCG(seed, n.id))
		if mutant == "minority" {
			n.size = 1
		}
		w.nodes = append(w.nodes, n)
	}
	return w
}

func (w *world) after(d time.Duration, fn func()) {
	w.order++
	heap.Push(&w.queue, event{w.now.Add(d), w.order, fn})
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.fn()
	}
	w.now = end
}

func (w *world) start(n *simNode) {
	if n.up {
		return
	}
	state, err := DecodeState(n.disk)
	if err != nil {
		panic(err)
	}
	n.up = true
	m := New(Config{Node: n.id, Random: n.random.Uint64}, state, n.size)
	n.m = m
	if d := m.Decision(); d != nil {
		w.announce(n, *d) // as a driver does at its start
	}
	var tick func()
	tick = func() {
		if n.m != m {
			return // an earlier life
		}
		w.step(n, m.Tick(w.now))
		w.after(100*time.Millisecond, tick)
	}
	w.after(time.Duration(w.rng.Int64N(int64(100*time.Millisecond))), tick)
}

func (w *world) stop(n *simNode) { n.up, n.m = false, nil }

// step carries out effects as a driver does, unless the node crashes meanwhile.
func (w *world) step(n *simNode, eff Effects) {
	persist := func() {
		if eff.Persist == nil {
			return
		}
		s := *eff.Persist
		if w.mutant == "forget accepted" && !s.Decided {
			s.Accepted, s.Value = Ballot{}, Value{}
		}
		n.disk = s.Encode()
	}
	send := func() bool {
		if eff.Decided != nil && w.rng.Float64() < w.cut {
			n.alone = w.now.Add(time.Duration(w.rng.Int64N(int64(20 * time.Second))))
		}
		for _, msg := range eff.Send {
			if w.crashes(n) {
				return false
			}
			if w.mutant == "hide accepted" && msg.Kind == Promise {
				msg.Promised, msg.Value = Ballot{}, Value{}
			}
			w.send(n, msg)
		}
		if eff.Decided != nil {
			w.announce(n, *eff.Decided)
		}
		return true
	}
	if w.mutant == "answer first" {
		if !send() || w.crashes(n) {
			return
		}
		persist()
		return
	}
	if w.crashes(n) { // before anything is stored
		return
	}
	persist()
	if w.crashes(n) {
		return
	}
	send()
}

func (w *world) crashes(n *simNode) bool {
	if w.crash == 0 || w.rng.Float64() >= w.crash {
		return false
	}
	w.stop(n)
	w.after(time.Duration(w.rng.Int64N(int64(5*time.Second))), func() { w.start(n) })
	return true
}

func (w *world) send(from *simNode, msg Message) {
	raw := msg.Encode()
	for i, to := range w.nodes {
		if to == from || msg.To != 0 && msg.To != to.id {
			continue
		}
		copies := 1
		if w.rng.Float64() < w.repeat {
			copies += w.rng.IntN(3)
		}
		for range copies {
			if w.rng.Float64() < w.drop {
				continue
			}
			var late time.Duration
			if w.delay > 0 {
				late = time.Duration(w.rng.Int64N(int64(w.delay)))
				if w.rng.IntN(20) == 0 {
					late *= 20 // a message from the past
				}
			}
			w.after(time.Millisecond+late, func() {
				if !to.up || w.severed[slices.Index(w.nodes, from)][i] || w.now.Before(from.alone) || w.now.Before(to.alone) {
					return
				}
				m, err := DecodeMessage(raw)
				if err != nil {
					panic(err)
				}
				w.step(to, to.m.Receive(w.now, m))
			})
		}
	}
}

func (w *world) announce(n *simNode, v Value) {
	if err := v.check(); err != nil {
		w.problems = append(w.problems, fmt.Sprintf("node %x announces %v: %v", n.id, v, err))
	}
	if s, err := DecodeState(n.disk); w.mutant != "answer first" && (err != nil || !s.Decided || !s.Value.Equal(v)) {
		w.problems = append(w.problems, fmt.Sprintf("node %x announces %v before it is stored", n.id, v))
	}
	if !slices.ContainsFunc(w.decisions, v.Equal) {
		w.decisions = append(w.decisions, v)
	}
	if len(w.decisions) > 1 {
		w.problems = append(w.problems, fmt.Sprintf("decisions %v", w.decisions))
	}
}

// disturb lets things go wrong for a time.
func (w *world) disturb(d time.Duration) {
	w.drop, w.repeat = w.rng.Float64()*0.4, w.rng.Float64()*0.3
	w.delay = time.Duration(w.rng.Int64N(int64(600 * time.Millisecond)))
	w.crash, w.cut = w.rng.Float64()*0.05, w.rng.Float64()
	for _, n := range w.nodes {
		w.after(time.Duration(w.rng.Int64N(int64(d/2))), func() { w.start(n) })
	}
	for range int(d / time.Second) {
		w.run(time.Second)
		switch w.rng.IntN(12) {
		case 0: // a partition
			side := make([]bool, len(w.nodes))
			for i := range side {
				side[i] = w.rng.IntN(2) == 0
			}
			w.sever(func(from, to int) bool { return side[from] != side[to] })
		case 1, 2, 3: // some hear others that do not hear them
			w.sever(func(from, to int) bool { return w.rng.IntN(3) == 0 })
		case 4, 5:
			w.sever(func(from, to int) bool { return false })
		}
	}
}

// sever decides which ways there are.
func (w *world) sever(cut func(from, to int) bool) {
	for from := range w.severed {
		for to := range w.severed[from] {
			w.severed[from][to] = cut(from, to)
		}
	}
}

// heal makes all well for the given nodes; the others are cut off.
func (w *world) heal(well []int) {
	w.drop, w.repeat, w.delay, w.crash, w.cut = 0, 0, 20*time.Millisecond, 0, 0
	w.sever(func(from, to int) bool { return !slices.Contains(well, from) || !slices.Contains(well, to) })
	for i, n := range w.nodes {
		n.alone = time.Time{}
		if slices.Contains(well, i) {
			w.start(n)
		}
	}
}

// simulate runs one seed: disturbances, then a majority is well, and then all.
func simulate(seed uint64, mutant string) []string {
	pick := rand.New(rand.NewPCG(seed, 2))
	nodes := 1 + pick.IntN(5)
	w := newWorld(seed, nodes, mutant)
	if pick.IntN(4) > 0 {
		w.disturb(time.Duration(1+pick.IntN(40)) * time.Second)
	}
	well := pick.Perm(nodes)[:majority(nodes)]
	w.heal(well)
	w.run(30 * time.Second)
	for _, i := range well {
		if n := w.nodes[i]; n.m == nil || n.m.Decision() == nil {
			w.problems = append(w.problems, fmt.Sprintf("node %x of a connected majority has no decision", n.id))
		}
	}
	all := pick.Perm(nodes)
	w.heal(all)
	w.run(10 * time.Second)
	for _, n := range w.nodes {
		switch d := n.m.Decision(); {
		case d == nil:
			w.problems = append(w.problems, fmt.Sprintf("node %x has no decision", n.id))
		case len(w.decisions) != 1 || !d.Equal(w.decisions[0]):
			w.problems = append(w.problems, fmt.Sprintf("node %x has decided %v, others %v", n.id, *d, w.decisions))
		}
	}
	for _, d := range w.decisions {
		for _, f := range d.Founders {
			if !slices.ContainsFunc(w.nodes, func(n *simNode) bool { return n.id == f }) {
				w.problems = append(w.problems, fmt.Sprintf("founder %x is no node", f))
			}
		}
		if len(d.Founders) < majority(nodes) {
			w.problems = append(w.problems, fmt.Sprintf("%d founders of %d nodes", len(d.Founders), nodes))
		}
	}
	return w.problems
}

var seeds = flag.Uint64("seeds", 1000, "runs of the simulation")

func TestFormationSimulated(t *testing.T) {
	for seed := range *seeds {
		if problems := simulate(seed, ""); len(problems) > 0 {
			t.Fatalf("seed %d: %q", seed, problems)
		}
	}
}

// TestFormationMutants breaks the rules one by one: the simulation must find two decisions with each.
func TestFormationMutants(t *testing.T) {
	for _, mutant := range []string{"answer first", "minority", "forget accepted", "hide accepted"} {
		t.Run(mutant, func(t *testing.T) {
			for seed := range *seeds {
				problems := simulate(seed, mutant)
				if slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, "decisions") }) {
					t.Logf("two decisions with seed %d", seed)
					return
				}
			}
			t.Error("not noticed")
		})
	}
}

// TestFormationIsDetermined runs a seed twice: equal inputs give equal states.
func TestFormationIsDetermined(t *testing.T) {
	disks := func() []byte {
		w := newWorld(7, 4, "")
		w.disturb(time.Minute)
		var all []byte
		for _, n := range w.nodes {
			all = append(all, n.disk...)
		}
		return all
	}
	if first, second := disks(), disks(); !bytes.Equal(first, second) || len(first) == 0 {
		t.Errorf("states %x and %x", first, second)
	}
}
