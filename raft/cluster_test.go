package raft_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// cluster is some manual hosts on one network, with a clock of its own.
type cluster struct {
	t     testing.TB
	net   *rafttest.Network
	now   time.Time
	nodes map[uint64]*testNode
	order []uint64
	tune  func(*raft.Config)
	life  uint64
}

// testNode is a node of a cluster.
type testNode struct {
	id       uint64
	log      *rafttest.Log
	slow     bool // its writes become durable by hand
	host     *raft.Host
	groups   map[raft.GroupID]*raft.Group
	machines map[raft.GroupID]*register
	specs    map[raft.GroupID]raft.GroupSpec
	failures []error
	removed  []raft.GroupID
	drift    float64 // of its clock
	base     time.Time
}

func newCluster(t testing.TB, nodes int, tune func(*raft.Config)) *cluster {
	c := &cluster{
		t: t, net: rafttest.NewNetwork(), now: time.Unix(1000, 0), nodes: make(map[uint64]*testNode), tune: tune,
	}
	for id := range uint64(nodes) {
		n := &testNode{id: id + 1, log: rafttest.NewLog(), drift: 1, base: c.now,
			specs: make(map[raft.GroupID]raft.GroupSpec)}
		c.nodes[n.id] = n
		c.order = append(c.order, n.id)
		c.start(n)
	}
	return c
}

// clock is a node's clock.
func (c *cluster) clock(n *testNode) time.Time {
	return n.base.Add(time.Duration(float64(c.now.Sub(n.base)) * n.drift))
}

// start starts a node's host with the groups that it had.
func (c *cluster) start(n *testNode) {
	c.t.Helper()
	c.life++
	cfg := raft.Config{
		Node: n.id, Log: n.log, Transport: c.net.Endpoint(n.id), Manual: true,
		Now: func() time.Time { return c.clock(n) }, Rand: rand.New(rand.NewPCG(n.id, c.life)),
		OnGroupFailure: func(id raft.GroupID, err error) {
			n.failures = append(n.failures, fmt.Errorf("group %d: %w", id, err))
		},
		OnRemoved: func(id raft.GroupID) { n.removed = append(n.removed, id) },
	}
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})).With("node", n.id)
	}
	if c.tune != nil {
		c.tune(&cfg)
	}
	h, err := raft.Open(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	n.host, n.groups, n.machines = h, make(map[raft.GroupID]*raft.Group), make(map[raft.GroupID]*register)
	ids := make([]raft.GroupID, 0, len(n.specs))
	for id := range n.specs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		c.startGroup(n, n.specs[id])
	}
	c.net.Attach(n.id, h)
}

func (c *cluster) startGroup(n *testNode, spec raft.GroupSpec) *raft.Group {
	c.t.Helper()
	m := &register{store: n.log, group: max(spec.Log, uint64(spec.ID))}
	if spec.Log != 0 {
		m.group = spec.Log
	}
	g, err := n.host.Start(spec, m)
	if err != nil {
		c.t.Fatal(err)
	}
	n.groups[spec.ID], n.machines[spec.ID], n.specs[spec.ID] = g, m, spec
	return g
}

// create starts a group on all nodes.
func (c *cluster) create(id raft.GroupID, nodes ...uint64) {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.order
	}
	for _, node := range nodes {
		c.startGroup(c.nodes[node], raft.GroupSpec{ID: id, Voters: nodes})
	}
}

// crash ends a node; keep says how many of the writes that are not durable survive, nil: none.
func (c *cluster) crash(id uint64, keep func(uint64, int) int) {
	n := c.nodes[id]
	after := n.log.Crash(keep)
	c.net.Detach(id)
	n.host.Close()
	n.log, n.host = after, nil
}

func (c *cluster) restart(id uint64) { c.start(c.nodes[id]) }

// settle does all that can be done without time.
func (c *cluster) settle() {
	c.t.Helper()
	for round := range 20000 {
		work := c.net.Deliver(1 << 20)
		for _, id := range c.order {
			n := c.nodes[id]
			if n.host == nil {
				continue
			}
			n.host.Run()
			if !n.slow {
				for n.log.Unsynced() > 0 {
					work++
					n.log.SyncAll()
					n.host.Run()
				}
			}
		}
		if work == 0 && c.net.Pending() == 0 {
			return
		}
		if round == 19999 {
			c.t.Fatal("the cluster does not come to rest")
		}
	}
}

// tick passes a tenth of a second.
func (c *cluster) tick() {
	c.t.Helper()
	c.now = c.now.Add(100 * time.Millisecond)
	for _, id := range c.order {
		if n := c.nodes[id]; n.host != nil {
			n.host.Tick()
			n.host.Run()
		}
	}
	c.settle()
}

func (c *cluster) pass(d time.Duration) {
	c.t.Helper()
	for range d / (100 * time.Millisecond) {
		c.tick()
	}
}

// await passes time until a condition holds.
func (c *cluster) await(d time.Duration, what string, cond func() bool) time.Duration {
	c.t.Helper()
	from := c.now
	for !cond() {
		if c.now.Sub(from) > d {
			c.t.Fatalf("not within %s: %s", d, what)
		}
		c.tick()
	}
	return c.now.Sub(from)
}

// leader returns the node whose replica leads a group and may propose, nil if there is none.
func (c *cluster) leader(id raft.GroupID) *testNode {
	var found *testNode
	for _, node := range c.order {
		n := c.nodes[node]
		if n.host != nil && n.machines[id] != nil && n.machines[id].leads {
			if found != nil && found.machines[id].term > n.machines[id].term {
				continue
			}
			found = n
		}
	}
	return found
}

func (c *cluster) elect(id raft.GroupID) *testNode {
	c.t.Helper()
	c.await(20*time.Second, fmt.Sprintf("a leader of group %d", id), func() bool { return c.leader(id) != nil })
	return c.leader(id)
}

func (c *cluster) propose(id raft.GroupID, data ...string) {
	c.t.Helper()
	n := c.elect(id)
	for _, d := range data {
		if err := n.groups[id].Propose([]byte(d)); err != nil {
			c.t.Fatalf("propose %q: %v", d, err)
		}
	}
	c.settle()
}

// same checks that the machines of a group are equal.
func (c *cluster) same(id raft.GroupID, nodes ...uint64) {
	c.t.Helper()
	if len(nodes) == 0 {
		nodes = c.order
	}
	want := c.nodes[nodes[0]].machines[id].applied
	for _, node := range nodes[1:] {
		if got := c.nodes[node].machines[id].applied; !slices.Equal(got, want) {
			c.t.Fatalf("group %d: node %d applied %d entries, node %d %d:\n%.300q\n%.300q",
				id, nodes[0], len(want), node, len(got), want, got)
		}
	}
}

// register is a machine that remembers what it applied: short data as it is, long data by its
// length, with the bytes in an object or left in the log.
type register struct {
	store    raft.SnapshotStore
	group    uint64
	applied  []string
	places   []placed // of long data, which stays in the log
	objects  []uint64
	index    uint64
	leads    bool
	term     uint64
	restored int
	released int
	padding  int // bytes that make a state longer
	onApply  func(string)
}

// placed says where long data is.
type placed struct {
	index uint64
	size  int
}

func (r *register) Apply(index uint64, data []byte) {
	r.index = index
	s := string(data)
	switch {
	case bytes.HasPrefix(data, []byte("object ")):
		r.store.PutObject(r.group, index, bytes.Clone(data), nil)
		r.objects = append(r.objects, index)
	case len(data) > 64:
		r.places = append(r.places, placed{index, len(data)})
		s = fmt.Sprint(len(data), " bytes ", string(data[:8]))
	}
	r.applied = append(r.applied, s)
	if r.onApply != nil {
		r.onApply(s)
	}
}

func (r *register) Lead(term uint64, ready bool) { r.leads, r.term = ready, term }

// Live implements raft.Retainer: of long data, all but the first byte is needed.
func (r *register) Live(lo, hi uint64, yield func(uint64, []raft.Range) bool) error {
	for _, p := range r.places {
		if p.index >= lo && p.index < hi && !yield(p.index, []raft.Range{{Off: 1, Len: uint32(p.size) / 2},
			{Off: 1 + uint32(p.size)/2, Len: uint32(p.size - 1 - p.size/2)}}) {
			return nil
		}
	}
	return nil
}

func (r *register) LiveBytes(lo, hi uint64) int64 {
	n := 0
	for _, p := range r.places {
		if p.index >= lo && p.index < hi {
			n += p.size - 1
		}
	}
	return int64(n)
}

// checkPlaces reads what the state says is in the log and among the objects.
func (r *register) checkPlaces() error {
	for _, p := range r.places {
		if err := r.store.ReadAt(r.group, p.index, 1, make([]byte, p.size-1)); err != nil {
			return err
		}
	}
	for _, key := range r.objects {
		if data, err := r.store.Object(r.group, key); err != nil || !bytes.HasPrefix(data, []byte("object ")) {
			return fmt.Errorf("object %d: %q, %w", key, data, err)
		}
	}
	return nil
}

type registerState struct {
	r       *register
	data    []byte
	objects []uint64
}

func (r *register) Snapshot() (raft.State, error) {
	var b []byte
	b = binary.AppendUvarint(b, uint64(len(r.applied)))
	for _, s := range r.applied {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(r.places)))
	for _, p := range r.places {
		b = binary.AppendUvarint(b, p.index)
		b = binary.AppendUvarint(b, uint64(p.size))
	}
	b = binary.AppendUvarint(b, uint64(len(r.objects)))
	for _, key := range r.objects {
		b = binary.AppendUvarint(b, key)
	}
	for i := range r.padding {
		b = append(b, byte(i*i>>3))
	}
	return &registerState{r, b, slices.Clone(r.objects)}, nil
}

func (s *registerState) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s.data)
	return int64(n), err
}
func (s *registerState) Objects() []uint64 { return s.objects }
func (s *registerState) Release()          { s.r.released++ }
func (s *registerState) Abandon()          { s.r.released++ }

func (r *register) Restore(index uint64, state io.Reader) error {
	b, err := io.ReadAll(state)
	if err != nil {
		return err
	}
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v
	}
	r.applied, r.places, r.objects, r.index = nil, nil, nil, index
	for range number() {
		n := number()
		r.applied = append(r.applied, string(b[:n]))
		b = b[n:]
	}
	for range number() {
		r.places = append(r.places, placed{number(), int(number())})
	}
	for range number() {
		r.objects = append(r.objects, number())
	}
	r.restored++
	return r.checkPlaces()
}
