package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
	"millrace/storage/index"
)

// ring is a cluster of nodes without a catalogue: the test starts streams and consumers, says who leads
// and what is committed. Everything proposed is committed at once unless the group is held.
type ring struct {
	*testing.T
	space, system *space
	decided       atomic.Uint64 // the last entry of the catalogue
	nodes         []*ringNode
	groups        map[uint64]*ringGroup
}

// ringNode is an engine with its disk.
type ringNode struct {
	*disk
	ring   *ring
	number int
	engine *Engine
	stream *Stream
}

// ringGroup is a group with a replica on every node.
type ringGroup struct {
	ring     *ring
	mu       sync.Mutex
	term     uint64
	leader   *ringReplica
	pending  [][]byte // proposed by leader
	log      [][]byte // committed
	hold     bool     // what is proposed waits for commit
	busy     bool     // someone hands out what is committed
	replicas []*ringReplica
}

// ringReplica is one node's replica.
type ringReplica struct {
	group     *ringGroup
	node      *ringNode
	spec      GroupSpec
	machine   Machine
	applied   int
	cut       bool // gets nothing
	stopped   bool
	snapshots int // asked for
	campaigns int
}

const ringStream, ringConsumer = 2000, 2001

// inRing runs test in a bubble, with three nodes that have a stream "S" of the subjects S.*, led by node 0.
func inRing(t *testing.T, retention api.Retention, test func(r *ring)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &ring{
			T: t, groups: map[uint64]*ringGroup{},
			space: &space{subs: map[int]spaceSub{}}, system: &space{subs: map[int]spaceSub{}},
		}
		for i := range 3 {
			r.nodes = append(r.nodes, r.startNode(i))
		}
		if _, err := r.nodes[0].engine.calls.serve(leaderSubject(metaGroup), func([]byte) (any, *api.Error) {
			return r.decided.Load(), nil
		}); err != nil {
			t.Fatal(err)
		}
		config := &api.StreamConfig{Name: "S", Subjects: []string{"S.*"}, Retention: retention, Replicas: 3,
			MaxMsgs: -1, MaxBytes: -1, MaxMsgsPer: -1, MaxMsgSize: -1, MaxConsumers: -1}
		for _, n := range r.nodes {
			ms := meta.Stream{Account: "A", Name: "S", Created: time.Now(), Config: config, Group: ringPlaces(ringStream)}
			var err error
			if n.stream, err = n.engine.accounts["A"].start(ms, r.spec(ringStream, n)); err != nil {
				t.Fatal(err)
			}
			n.stream.assign(ms)
		}
		r.elect(ringStream, 0, 0)
		defer r.close()
		test(r)
	})
}

func (r *ring) startNode(i int) *ringNode {
	n := &ringNode{disk: newDisk(), ring: r, number: i}
	e := &Engine{accounts: map[string]*account{}, blocks: index.NewCache(1 << 20), cfg: Config{
		Groups: n, Log: n.disk, Bus: func(string) Bus { return r.space }, System: r.system, Cluster: "C",
		Logger: slog.New(slog.DiscardHandler), Version: "2.15.0", Node: uint64(i+1)<<20 | (1<<20 - 1),
		Replica: uint64(i+1) << 20, Founders: []uint64{1 << 20, 2 << 20, 3 << 20},
		Online: func(uint64) bool { return true },
	}}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.lanes.init()
	e.catalog = &catalog{engine: e, machine: meta.New(1)}
	e.catalog.carrier.init(e.catalog)
	e.members.init(e)
	e.accounts["A"] = &account{engine: e, name: "A", bus: r.space, limits: api.Unlimited(),
		streams: map[string]*Stream{}, offline: map[string]error{}}
	e.lanes.start(&e.wg)
	var err error
	if e.calls, err = startCalls(e, r.system); err != nil {
		r.Fatal(err)
	}
	n.engine = e
	return n
}

func (r *ring) close() {
	for _, n := range r.nodes {
		n.engine.cancel()
		n.stream.shutdown()
		n.engine.calls.stop()
		n.engine.lanes.close()
		n.engine.wg.Wait()
	}
}

// spec is that of a node's replica of a group.
func (r *ring) spec(id uint64, n *ringNode) GroupSpec {
	return GroupSpec{ID: id, Log: id, Replica: uint64(n.number + 1), Began: []uint64{1, 2, 3}}
}

// consumer starts the durable consumer "C" on all nodes and has a node lead it, none if that is negative.
func (r *ring) consumer(cfg api.ConsumerConfig, leader int) {
	r.Helper()
	cfg.Durable, cfg.Name, cfg.AckPolicy = "C", "C", api.AckExplicit
	if cfg.AckWait == 0 {
		cfg.AckWait = 30 * time.Second
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = 512
	}
	for _, n := range r.nodes {
		mc := meta.Consumer{Account: "A", Stream: "S", Name: "C", Created: time.Now(), Config: &cfg}
		mc.Group = ringPlaces(ringConsumer)
		if err := n.stream.startConsumer(mc, r.spec(ringConsumer, n)); err != nil {
			r.Fatal(err)
		}
	}
	if leader >= 0 {
		r.elect(ringConsumer, leader, 0)
	}
	synctest.Wait()
}

// ringPlaces says that a group is on all nodes.
func ringPlaces(id uint64) meta.Group {
	g := meta.Group{ID: id}
	for i := range uint64(3) {
		g.Members = append(g.Members, meta.Member{Node: (i+1)<<20 | (1<<20 - 1), Replica: i + 1})
	}
	return g
}

// entry is a node's replica of the consumer.
func (n *ringNode) entry() *consumerEntry {
	c, err := n.stream.consumer("C")
	if err != nil {
		n.ring.Fatal(err)
	}
	return c
}

// state is what is committed of the consumer on a node.
func (n *ringNode) state() []byte {
	c := n.entry()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.committed.Snapshot()
}

// stored are the sequences that a node's replica of the stream holds.
func (n *ringNode) stored() string {
	rd := newReader(n.stream)
	var seqs []uint64
	for seq, ok := rd.Next(0, nil); ok; seq, ok = rd.Next(seq+1, nil) {
		seqs = append(seqs, seq)
	}
	return fmt.Sprint(seqs)
}

// publish stores n messages.
func (r *ring) publish(n int) {
	for range n {
		r.space.Publish("S.a", "", nil, []byte("x"))
	}
	synctest.Wait()
}

// listen collects what is sent to a subject.
func (r *ring) listen(subj string) *letters {
	in := &letters{}
	r.space.Subscribe(subj, "", func(m Msg) {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.list = append(in.list, letter{string(m.Reply), string(m.Header), string(m.Data)})
	})
	return in
}

type letters struct {
	mu   sync.Mutex
	list []letter
}

type letter struct{ reply, header, data string }

// take returns what came since the last call.
func (in *letters) take() []letter {
	in.mu.Lock()
	defer in.mu.Unlock()
	list := in.list
	in.list = nil
	return list
}

// seqs is the short form of deliveries: the sequence and, from the second on, the number of the delivery;
// of a status, its text.
func seqs(list []letter) string {
	var out []string
	for _, l := range list {
		if l.reply == "" {
			line, _, _ := strings.Cut(strings.TrimPrefix(l.header, "NATS/1.0 "), "\r\n")
			out = append(out, line)
			continue
		}
		s := l.seq()
		if n := strings.Split(l.reply, ".")[4]; n != "1" {
			s += "x" + n
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func (l letter) seq() string { return strings.Split(l.reply, ".")[5] }

// pull asks for messages on a subject.
func (r *ring) pull(inbox string, batch int) {
	r.space.Publish("$JS.API.CONSUMER.MSG.NEXT.S.C", inbox, nil, fmt.Append(nil, batch))
	synctest.Wait()
}

// ack acknowledges a delivery; the confirmation goes to reply.
func (r *ring) ack(l letter, reply string) {
	r.space.Publish(l.reply, reply, nil, nil)
	synctest.Wait()
}

// after lets time pass.
func (r *ring) after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// held tells whether what a group proposes waits for commit.
func (r *ring) held(id uint64, on bool) {
	g := r.groups[id]
	g.mu.Lock()
	g.hold = on
	g.mu.Unlock()
	if !on {
		g.commit(1 << 30)
	}
	synctest.Wait()
}

// cut tells whether a node's replica of a group gets nothing.
func (r *ring) cut(id uint64, node int, on bool) {
	g := r.groups[id]
	g.mu.Lock()
	g.replicas[node].cut = on
	g.mu.Unlock()
	g.commit(0)
	synctest.Wait()
}

// elect makes a node's replica the leader in a new term. Of what the old leader has proposed, keep entries
// are found by the new one, the rest is lost.
func (r *ring) elect(id uint64, node, keep int) {
	g := r.groups[id]
	g.mu.Lock()
	old, term := g.leader, g.term
	g.leader = nil
	lost := g.pending
	g.pending = slices.Clone(lost[:min(keep, len(lost))])
	g.mu.Unlock()
	if old != nil {
		old.machine.Lead(term, false)
	}
	g.commit(1 << 30)
	if node < 0 {
		return
	}
	g.mu.Lock()
	g.term++
	g.leader, term = g.replicas[node], g.term
	leader := g.leader
	g.mu.Unlock()
	leader.machine.Lead(term, true)
	synctest.Wait()
}

// commit commits the n oldest proposals and hands out what is committed.
func (g *ringGroup) commit(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n = min(n, len(g.pending))
	g.log = append(g.log, g.pending[:n]...)
	g.pending = g.pending[n:]
	if g.busy {
		return
	}
	g.busy = true
	for again := true; again; {
		again = false
		for _, p := range g.replicas {
			for p != nil && !p.cut && !p.stopped && p.applied < len(g.log) {
				entry := g.log[p.applied]
				p.applied++
				index := uint64(p.applied)
				g.mu.Unlock()
				p.node.mu.Lock()
				p.node.logs[p.spec.Log] = append(p.node.logs[p.spec.Log], slices.Clone(entry))
				p.node.mu.Unlock()
				p.machine.Apply(index, slices.Clone(entry))
				g.mu.Lock()
				again = true
			}
		}
	}
	g.busy = false
}

// Start adds the node's replica of a group.
func (n *ringNode) Start(spec GroupSpec, m Machine) (Group, error) {
	g := n.ring.groups[spec.ID]
	if g == nil {
		g = &ringGroup{ring: n.ring, replicas: make([]*ringReplica, 3)}
		n.ring.groups[spec.ID] = g
	}
	p := &ringReplica{group: g, node: n, spec: spec, machine: m}
	g.mu.Lock()
	g.replicas[n.number] = p
	g.mu.Unlock()
	return p, nil
}

func (n *ringNode) Remove(spec GroupSpec) error { return n.disk.Remove(spec) }

func (p *ringReplica) Propose(term uint64, entry []byte) error {
	g := p.group
	g.mu.Lock()
	if g.leader != p || g.term != term {
		g.mu.Unlock()
		return fmt.Errorf("test: %w", ErrNotLeader)
	}
	g.pending = append(g.pending, entry)
	hold := g.hold
	g.mu.Unlock()
	if !hold {
		g.commit(1 << 30)
	}
	return nil
}

func (p *ringReplica) ProposeControl(term uint64, entry []byte) error { return p.Propose(term, entry) }

func (p *ringReplica) LeaseRead(done func(error)) {
	p.group.mu.Lock()
	current := p.group.leader == p && p.applied == len(p.group.log)
	p.group.mu.Unlock()
	if !current {
		done(errors.New("test: no leader"))
		return
	}
	done(nil)
}

func (p *ringReplica) Leader() (replica, term uint64) {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	if p.group.leader == nil {
		return 0, p.group.term
	}
	return p.group.leader.spec.Replica, p.group.term
}

func (p *ringReplica) Status(context.Context) (GroupStatus, error) {
	g := p.group
	g.mu.Lock()
	defer g.mu.Unlock()
	s := GroupStatus{Term: g.term, Commit: uint64(len(g.log)), Voters: p.spec.Began}
	if g.leader != nil {
		s.Lead = g.leader.spec.Replica
	}
	for _, o := range g.replicas {
		if g.leader == p && o != nil && o != p {
			s.Progress = append(s.Progress, ReplicaProgress{Replica: o.spec.Replica, Match: uint64(o.applied), Active: !o.cut})
		}
	}
	return s, nil
}

func (p *ringReplica) Campaign() {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	p.campaigns++
}

func (p *ringReplica) TransferLeader(to uint64) {
	g := p.group
	g.mu.Lock()
	old := g.term
	g.term++
	g.leader, g.pending = g.replicas[to-1], nil
	m, term := g.leader.machine, g.term
	g.mu.Unlock()
	p.machine.Lead(old, false)
	m.Lead(term, true)
}

func (p *ringReplica) ChangeMembers(_ Change, done func(error)) { done(nil) }

func (p *ringReplica) Snapshot() {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	p.snapshots++
}

func (p *ringReplica) Stop() {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	p.stopped = true
}

// restore gives a replica that was cut off the state of another one.
func (r *ring) restore(id uint64, node, from int) {
	g := r.groups[id]
	state, err := g.replicas[from].machine.(Snapshotter).Snapshot()
	if err != nil {
		r.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := state.WriteTo(&b); err != nil {
		r.Fatal(err)
	}
	state.Release()
	p := g.replicas[node]
	if err := p.machine.(Snapshotter).Restore(uint64(g.replicas[from].applied), io.Reader(&b)); err != nil {
		r.Fatal(err)
	}
	g.mu.Lock()
	p.applied = g.replicas[from].applied
	g.mu.Unlock()
	r.cut(id, node, false)
}
