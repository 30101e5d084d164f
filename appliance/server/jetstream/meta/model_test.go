package meta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// randomEntry makes an entry that a proposer could have made at some catalogue, not always at m, on few
// names so that entries meet.
func randomEntry(t *testing.T, r *rand.Rand, m *Machine, limits *api.Limits) []byte {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	ops := []Op{OpPutStream, OpPutStream, OpPutStream, OpDeleteStream, OpPutConsumer, OpPutConsumer, OpPutConsumer, OpDeleteConsumer, OpPauseConsumer,
		OpPutNode, OpPlace, OpPlace, OpPlaced, OpPlaced, OpPlaced, OpPlaced, OpFix}
	e := Entry{ID: fmt.Sprint(r.Uint64()), Time: testTime.Add(time.Duration(r.Int64N(1e12))), Account: pick("A", "B"),
		Stream: pick("S", "T", "U", "V"), Op: ops[r.IntN(len(ops))]}
	if live := len(candidates(m)); live > 5 && r.IntN(10) == 0 {
		e.Op = OpRemoveNode
	}
	anyNode := func() uint64 { // of those that there are, mostly
		if list := candidates(m); len(list) > 0 && r.IntN(20) != 0 {
			return list[r.IntN(len(list))].Node >> NodeBits
		}
		return 1 + r.Uint64N(200)
	}
	someNodes := func(n int) (nodes []uint64) {
		for range n {
			nodes = append(nodes, testNode(anyNode()))
		}
		return nodes
	}
	switch e.Op {
	case OpPutStream:
		c := api.StreamConfig{Name: e.Stream, Subjects: []string{pick("a", "b.>", "c.*", e.Stream)}, Retention: api.Retention(r.IntN(3)),
			MaxMsgs: r.Int64N(2), MaxBytes: r.Int64N(400), AllowDirect: r.IntN(2) == 0, Metadata: map[string]string{pick("k", "l"): pick("v", "w")},
			Replicas: 1 + 2*r.IntN(3)}
		n, err := c.Normalize(limits, false)
		if err != nil {
			t.Fatal(err)
		}
		e.StreamConfig, e.Action, e.Limits = &n, Action(pick("create", "update")), limits
		if e.Nodes = placeFor(m, e.Account, &n); r.IntN(10) == 0 {
			e.Nodes = someNodes(n.Replicas)
		}
	case OpPutConsumer:
		e.Consumer = pick("C", "D", "E")
		e.ConsumerConfig = &api.ConsumerConfig{Durable: e.Consumer, AckPolicy: api.AckPolicy(r.IntN(3)), FilterSubject: pick("", "a", "b.x", "b.>"),
			DeliverSubject: pick("", "d"), MaxAckPending: r.IntN(3), Metadata: map[string]string{"k": pick("v", "w")},
			Replicas: r.IntN(2) * (1 + r.IntN(3))}
		e.Action, e.Limits, e.Pedantic = Action(pick("create", "update", "")), limits, r.IntN(4) == 0
		if r.IntN(10) == 0 {
			e.Nodes = someNodes(1 + r.IntN(3))
		}
	case OpDeleteConsumer:
		e.Consumer = pick("C", "D", "E")
	case OpPauseConsumer:
		e.Consumer = pick("C", "D", "E")
		if until := testTime.Add(time.Duration(r.Int64N(1e15))); r.IntN(2) == 0 {
			e.PauseUntil = &until
		}
	case OpPutNode, OpRemoveNode:
		e.Account, e.Stream = "", ""
		i := anyNode()
		if e.Op == OpRemoveNode {
			e.Node = &Node{ID: testNode(i)}
			break
		}
		if r.IntN(2) == 0 {
			i = 1 + r.Uint64N(200)
		}
		e.Node = putNode(i, 0).Node
		e.Node.Name, e.Node.Tags = pick("n1", e.Node.Name, e.Node.Name, e.Node.Name), []string{pick("x", "y")}
		if j := anyNode(); j != i && r.IntN(3) == 0 {
			old, _ := m.Node(testNode(j))
			e.Replaces, e.Node.Name = testNode(j), old.Name
		}
	case OpPlace, OpFix, OpPlaced:
		randomMove(r, m, &e, someNodes)
	}
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// randomMove makes of e what the meta group's leader proposes to move, and the leader of a group reports.
func randomMove(r *rand.Rand, m *Machine, e *Entry, someNodes func(int) []uint64) {
	s, ok := m.Stream(e.Account, e.Stream)
	group := s.Group
	if list := m.Consumers(e.Account, e.Stream); len(list) > 0 && r.IntN(2) == 0 {
		c := list[r.IntN(len(list))]
		e.Consumer, group = c.Name, c.Group
	}
	if e.Op != OpPlace {
		if e.Members = group.Target; r.IntN(10) == 0 || e.Members == nil {
			e.Members = members(1, 1)
		}
		return
	}
	switch list := m.Repairs(candidates(m), "", 100); {
	case len(list) > 0 && r.IntN(2) == 0:
		id, at := e.ID, e.Time
		*e = list[r.IntN(len(list))]
		e.ID, e.Time = id, at
	case ok && r.IntN(4) == 0:
		e.Nodes = nodesOf(group.Members)
	case ok:
		e.Nodes = someNodes(len(group.Carrying()))
	default:
		e.Nodes = someNodes(1)
	}
}

// safety is what must hold from one entry to the next.
type safety struct {
	removed map[uint64]bool            // nodes
	gone    map[[2]uint64]bool         // logs, by node and number, that may be deleted
	began   map[uint64]string          // of groups
	carried map[uint64]map[uint64]bool // replicas that each group's raft group may have
}

func newSafety() *safety {
	return &safety{removed: map[uint64]bool{}, gone: map[[2]uint64]bool{}, began: map[uint64]string{}, carried: map[uint64]map[uint64]bool{}}
}

// check compares m with what was before the entry.
func (s *safety) check(m *Machine, fx *Effects) error {
	for id := range s.removed {
		if n, ok := m.Node(id); !ok || !n.Removed {
			return fmt.Errorf("node %x is back", id)
		}
	}
	for _, n := range m.Nodes() {
		if n.Removed {
			s.removed[n.ID] = true
		}
	}
	settled := map[uint64]bool{} // groups that may have lost replicas
	if fx.Changed && fx.Consumer != nil {
		settled[fx.Consumer.Group.ID] = true
	} else if fx.Changed {
		settled[fx.Stream.Group.ID] = true
	}
	live := map[uint64]bool{}
	for g := range m.groups() {
		live[g.ID] = true
		if began, ok := s.began[g.ID]; ok && began != fmt.Sprint(g.Began) {
			return fmt.Errorf("group %d began with %s, and now with %v", g.ID, began, g.Began)
		}
		s.began[g.ID] = fmt.Sprint(g.Began)
		now := map[uint64]bool{}
		for _, list := range g.lists() {
			for _, member := range list {
				now[member.Replica] = true
				log := [2]uint64{member.Node, g.LogOf(member)}
				if s.gone[log] {
					return fmt.Errorf("log %x of node %x is given again", log[1], log[0])
				}
				if m.Removed(log[0], log[1]) {
					return fmt.Errorf("log %x of node %x is carried, and removed", log[1], log[0])
				}
			}
		}
		for replica := range s.carried[g.ID] {
			if now[replica] {
				continue
			}
			if !settled[g.ID] || g.Target != nil {
				return fmt.Errorf("group %d lost replica %x in the middle of a change", g.ID, replica)
			}
			log := [2]uint64{NodeOf(replica), g.LogOf(Member{Node: NodeOf(replica), Replica: replica})}
			if s.gone[log] = true; !m.Removed(log[0], log[1]) {
				return fmt.Errorf("log %x of node %x is not removed", log[1], log[0])
			}
		}
		s.carried[g.ID] = now
	}
	for id := range s.carried {
		if !live[id] && !m.Removed(testNode(1), id) {
			return fmt.Errorf("group %d was deleted, and is not removed", id)
		}
	}
	if m.Removed(testNode(1), m.next) || m.Removed(testNode(1), FirstGroup-1) {
		return fmt.Errorf("what was never given out is removed")
	}
	return nil
}

// TestMachineIsDeterministic applies a random log to two machines, one of which is replaced by a restored snapshot
// of itself now and then, and checks what must hold from one entry to the next.
func TestMachineIsDeterministic(t *testing.T) {
	limits := &api.Limits{Account: api.Unlimited(), MaxConsumers: 2, MaxStore: 4000, Clustered: true}
	limits.Account.MaxStreams = 3
	total := map[string]int{}
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		a, b := New(testReplica(1)), New(testReplica(1))
		for i := range uint64(6) {
			e := putNode(i+1, 0)
			data, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Apply(data); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Restore(a.Snapshot()); err != nil {
			t.Fatal(err)
		}
		s := newSafety()
		outcome := map[uint16]int{}
		for step := range 400 {
			entry := randomEntry(t, r, a, limits)
			x, err := a.Apply(entry)
			if err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			count(t, total, entry, &x)
			if x.Error != nil {
				outcome[x.Error.ErrCode]++
			} else {
				outcome[0]++
			}
			if r.IntN(10) == 0 {
				restored := New(testReplica(1))
				if err := restored.Restore(b.Snapshot()); err != nil {
					t.Fatalf("seed %d step %d: %v", seed, step, err)
				}
				b = restored
			}
			y, err := b.Apply(entry)
			if err != nil || !reflect.DeepEqual(x, y) {
				t.Fatalf("seed %d step %d: %s\neffects %+v\n    and %+v, %v", seed, step, entry, x, y, err)
			}
			if err := a.check(); err != nil {
				t.Fatalf("seed %d step %d: %s: %v", seed, step, entry, err)
			}
			if err := s.check(a, &x); err != nil {
				t.Fatalf("seed %d step %d: %s: %v", seed, step, entry, err)
			}
			if !bytes.Equal(a.Snapshot(), b.Snapshot()) {
				t.Fatalf("seed %d step %d: %s\nsnapshots %s\n      and %s", seed, step, entry, a.Snapshot(), b.Snapshot())
			}
		}
		if outcome[0] < 50 || len(outcome) < 8 {
			t.Errorf("seed %d: the log is too uniform: %v", seed, outcome)
		}
	}
	for what, least := range map[string]int{"put_node": 50, "remove_node": 20, "replaced": 20, "place": 50, "placed": 50, "stale": 50, "given up": 5} {
		if total[what] < least {
			t.Errorf("the logs have too little of %q: %v", what, total)
		}
	}
}

// count notes what the logs of the test have in them.
func count(t *testing.T, total map[string]int, entry []byte, fx *Effects) {
	e, err := DecodeEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	group := fx.Stream.Group
	if fx.Consumer != nil {
		group = fx.Consumer.Group
	}
	for what, is := range map[string]bool{
		string(e.Op): fx.Changed,
		"replaced":   fx.Changed && e.Replaces != 0,
		"stale":      fx.Stale,
		"given up":   fx.Changed && len(group.Leaving) > 0,
	} {
		if is {
			total[what]++
		}
	}
}

// TestRepairsComeToRest removes nodes of random catalogues, carries out what Repairs proposes, and wants all that
// is not lost to be on nodes that are there, with consumers where their streams are.
func TestRepairsComeToRest(t *testing.T) {
	limits := &api.Limits{Account: api.Unlimited(), Clustered: true}
	lost, kept := 0, 0
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 2))
		f := newFixture(t)
		f.limits = *limits
		f.want(f.do(putNode(6, 0)), nil)
		f.want(f.do(putNode(7, 0)), nil)
		for range 200 {
			entry := randomEntry(t, r, f.Machine, limits)
			if bytes.Contains(entry, []byte(`"remove_node"`)) || bytes.Contains(entry, []byte(`"put_node"`)) {
				continue
			}
			if _, err := f.Apply(entry); err != nil {
				t.Fatal(err)
			}
		}
		for _, i := range []uint64{2, 5} {
			f.want(f.do(&Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(i)}}), nil)
		}
		rest := false
		for range 200 {
			list := f.Repairs(candidates(f.Machine), "", 3)
			if len(list) > 3 {
				t.Fatalf("seed %d: %d repairs at once", seed, len(list))
			}
			for _, e := range list {
				f.want(f.do(&e), nil)
			}
			moved := carryOut(f)
			if rest = len(list) == 0 && !moved; rest {
				break
			}
		}
		if !rest {
			t.Fatalf("seed %d: no rest: %s", seed, f.Snapshot())
		}
		for _, account := range f.Accounts() {
			for _, ms := range f.Streams(account, "") {
				if f.lost(&ms.Group) {
					lost++
					continue
				}
				kept++
				if ms.Group.Target != nil || len(ms.Group.Members) != ms.Config.Replicas || f.anyRemoved(ms.Group.Members) {
					t.Errorf("seed %d: stream %q is at %+v for %d", seed, ms.Name, ms.Group, ms.Config.Replicas)
				}
				s := f.accounts[account][ms.Name]
				for _, c := range f.Consumers(account, ms.Name) {
					if f.lost(&c.Group) {
						lost++
						continue
					}
					if c.Group.Target != nil || f.anyRemoved(c.Group.Members) || len(c.Group.Members) != replicasOf(s, c.Config) ||
						slices.ContainsFunc(nodesOf(c.Group.Members), func(n uint64) bool { return !slices.Contains(nodesOf(ms.Group.Members), n) }) {
						t.Errorf("seed %d: consumer %q is at %+v, its stream at %+v", seed, c.Name, c.Group, ms.Group)
					}
				}
			}
		}
	}
	if lost < 3 || kept < 20 {
		t.Errorf("%d lost and %d kept", lost, kept)
	}
}

// carryOut has every group that can report that it is where it is to be, consumers first.
func carryOut(f *fixture) (moved bool) {
	f.t.Helper()
	for _, account := range f.Accounts() {
		for _, ms := range f.Streams(account, "") {
			for _, c := range f.Consumers(account, ms.Name) {
				if c.Group.Target != nil && !f.anyRemoved(c.Group.Target) && !f.lost(&c.Group) {
					f.want(f.do(&Entry{Op: OpPlaced, Account: account, Stream: ms.Name, Consumer: c.Name, Members: c.Group.Target}), nil)
					moved = true
				}
			}
			if _, held := f.Holds(account, ms.Name); held || ms.Group.Target == nil || f.lost(&ms.Group) {
				continue
			}
			f.want(f.do(&Entry{Op: OpPlaced, Account: account, Stream: ms.Name, Members: ms.Group.Target}), nil)
			moved = true
		}
	}
	return moved
}
