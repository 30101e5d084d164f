package meta

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/appliance/server/jetstream/api"
)

// show writes a group as "members>target-leaving", a replica as its node and generation.
func show(g *Group) string {
	list := func(mark string, members []Member) string {
		if members == nil {
			return ""
		}
		var s []string
		for _, m := range members {
			s = append(s, fmt.Sprintf("%d.%d", m.Node>>NodeBits, m.Replica&nodeMask))
		}
		return mark + strings.Join(s, ",")
	}
	return list("", g.Members) + list(">", g.Target) + list("-", g.Leaving)
}

// at wants stream S and its consumers, by name, at places.
func (f *fixture) at(want ...string) {
	f.t.Helper()
	s, ok := f.Stream("A", "S")
	if !ok {
		f.t.Fatal("no stream")
	}
	got := []string{show(&s.Group)}
	for _, c := range f.Consumers("A", "S") {
		got = append(got, c.Name+" "+show(&c.Group))
	}
	if !slices.Equal(got, want) {
		f.t.Fatalf("at %q\nwant %q", got, want)
	}
}

func (f *fixture) place(consumer string, nodes ...uint64) Effects {
	f.t.Helper()
	return f.do(&Entry{Op: OpPlace, Stream: "S", Consumer: consumer, Nodes: testNodes(nodes...)})
}

// placed reports that stream S or a consumer has come to its target.
func (f *fixture) placed(consumer string) Effects {
	f.t.Helper()
	s, _ := f.Stream("A", "S")
	target := s.Group.Target
	if consumer != "" {
		c, _ := f.Consumer("A", "S", consumer)
		target = c.Group.Target
	}
	return f.do(&Entry{Op: OpPlaced, Stream: "S", Consumer: consumer, Members: target})
}

func (f *fixture) scale(replicas int) Effects {
	f.t.Helper()
	return f.stream(ActionUpdate, api.StreamConfig{Name: "S", Replicas: replicas})
}

func TestStreamIsScaled(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S"}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "D", Replicas: 1}), nil)
	f.at("1.1", "C 1.1", "D 1.1")
	fx := f.scale(3)
	f.want(fx, nil)
	if !fx.Changed || fx.Stream.Config.Replicas != 3 {
		t.Errorf("scaled: %+v", fx)
	}
	f.at("1.1>1.1,2.2,3.3", "C 1.1>1.1,3.2,2.3", "D 1.1")
	f.want(f.scale(5), api.ErrClusterServerMemberChangeInflight)
	f.want(f.placed(""), nil)
	f.want(f.placed("C"), nil)
	f.at("1.1,2.2,3.3", "C 1.1,3.2,2.3", "D 1.1")
	f.want(f.scale(5), nil)
	f.want(f.placed(""), nil)
	f.want(f.placed("C"), nil)
	f.at("1.1,2.2,3.3,4.4,5.5", "C 1.1,2.3,3.2,4.4,5.5", "D 1.1")
	f.want(f.scale(1), nil)
	f.at("1.1,2.2,3.3,4.4,5.5>1.1", "C 1.1,2.3,3.2,4.4,5.5>1.1", "D 1.1")
	f.want(f.placed(""), api.ErrClusterServerMemberChangeInflight) // the consumer has yet to leave
	if name, held := f.Holds("A", "S"); !held || name != "C" {
		t.Errorf("held by %q, %v", name, held)
	}
	f.want(f.placed("C"), nil)
	f.want(f.placed(""), nil)
	f.at("1.1", "C 1.1", "D 1.1")
	f.want(f.scale(3), nil) // replicas that come back are other ones
	f.at("1.1>1.1,2.6,3.7", "C 1.1>1.1,3.6,2.7", "D 1.1")
}

func TestConsumerIsScaled(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", Replicas: 3}), nil)
	for _, name := range []string{"C", "D", "E"} { // spread
		f.want(f.consumer(ActionCreate, "S", api.ConsumerConfig{Durable: name, Replicas: 1}), nil)
	}
	f.at("1.1,2.2,3.3", "C 3.1", "D 1.1", "E 2.1")
	f.want(f.consumer(ActionUpdate, "S", api.ConsumerConfig{Durable: "C", Replicas: 3}), nil)
	f.want(f.consumer(ActionUpdate, "S", api.ConsumerConfig{Durable: "D", Replicas: 2}), nil)
	f.at("1.1,2.2,3.3", "C 3.1>3.1,1.2,2.3", "D 1.1>1.1,2.2", "E 2.1")
	f.want(f.placed("C"), nil)
	f.want(f.consumer(ActionUpdate, "S", api.ConsumerConfig{Durable: "C"}), nil) // as many as the stream
	f.at("1.1,2.2,3.3", "C 3.1,1.2,2.3", "D 1.1>1.1,2.2", "E 2.1")
	f.want(f.consumer(ActionUpdate, "S", api.ConsumerConfig{Durable: "D", Replicas: 3}), api.ErrClusterServerMemberChangeInflight)
	f.want(f.consumer(ActionUpdate, "S", api.ConsumerConfig{Durable: "D", Replicas: 4}), api.ErrConsumerReplicasExceedsStream)
	fx := f.do(&Entry{Op: OpPutConsumer, Stream: "S", Consumer: "F", Action: ActionCreate, Nodes: testNodes(2),
		ConsumerConfig: &api.ConsumerConfig{Durable: "F", Replicas: 1}})
	f.want(fx, nil)
	if got := show(&fx.Consumer.Group); got != "2.1" {
		t.Errorf("at %s", got)
	}
	for _, nodes := range [][]uint64{testNodes(4), testNodes(1, 2), {77}} {
		fx := f.do(&Entry{Op: OpPutConsumer, Stream: "S", Consumer: "G", Action: ActionCreate, Nodes: nodes,
			ConsumerConfig: &api.ConsumerConfig{Durable: "G", Replicas: 1}})
		if fx.Error == nil || fx.Error.ErrCode != 10005 {
			t.Errorf("a consumer on %x: %v", nodes, fx.Error)
		}
	}
}

func TestMoveIsCarriedOutOrGivenUp(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S"}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), nil)
	if fx := f.place("", 1); fx.Error != nil || fx.Changed {
		t.Errorf("placed where it is: %+v", fx)
	}
	if fx := f.do(&Entry{Op: OpPlaced, Stream: "S", Members: members(1, 1)}); !fx.Stale || fx.Error != nil || fx.Changed {
		t.Errorf("reported without a target: %+v", fx)
	}
	f.want(f.place("", 4), nil)
	f.at("1.1>4.2", "C 1.1>4.2")
	if fx := f.place("", 4); fx.Error != nil || fx.Changed {
		t.Errorf("placed there again: %+v", fx)
	}
	f.want(f.place("", 5), api.ErrClusterServerMemberChangeInflight)
	fx := f.do(&Entry{Op: OpPlaced, Stream: "S", Members: members(4, 9)})
	if fx.Error != nil || fx.Changed || !fx.Stale {
		t.Errorf("others are there: %+v", fx)
	}
	f.want(f.place("", 1), nil) // given up: 4.2 may be the only one of the raft group by now
	f.at("1.1>1.1-4.2", "C 1.1>1.1-4.2")
	s, _ := f.Stream("A", "S")
	log := s.Group.ID | 2<<groupBits
	if m, ok := s.Group.Replica(testNode(4)); !ok || s.Group.LogOf(m) != log || f.Removed(testNode(4), log) {
		t.Errorf("replica %+v, %v", m, ok)
	}
	fx = f.do(&Entry{Op: OpPlaced, Stream: "S", Members: members(4, 2)})
	if fx.Error != nil || !fx.Stale {
		t.Errorf("reported too late: %+v", fx)
	}
	f.want(f.placed("C"), nil)
	f.want(f.placed(""), nil)
	f.at("1.1", "C 1.1")
	if !f.Removed(testNode(4), log) {
		t.Error("the log that nobody needs is kept")
	}
	f.want(f.place("", 4), nil)
	f.at("1.1>4.3", "C 1.1>4.3")
	f.want(f.placed("C"), nil)
	f.want(f.placed(""), nil)
	f.at("4.3", "C 4.3")
	f.want(f.place("", 1), nil)
	f.want(f.placed("C"), nil)
	for _, changed := range []bool{true, false} {
		fx := f.do(&Entry{Op: OpFix, Stream: "S", Members: members(1, 4)})
		if fx.Error != nil || fx.Changed != changed || !fx.Stream.Group.Fixed {
			t.Errorf("fixed: %+v", fx)
		}
	}
	f.want(f.place("", 4), api.ErrClusterServerMemberChangeInflight) // it may be out by now
	f.want(f.placed(""), nil)
	f.at("1.4", "C 1.4")
}

func TestPlaceRefusesNodes(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", Replicas: 3}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), nil)
	f.want(f.do(&Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(5)}}), nil)
	for name, c := range map[string]struct {
		consumer string
		nodes    []uint64
	}{
		"too few":                 {"", testNodes(1, 2)},
		"twice":                   {"", testNodes(1, 2, 2)},
		"removed":                 {"", testNodes(1, 2, 5)},
		"unknown":                 {"", testNodes(1, 2, 9)},
		"consumer elsewhere":      {"C", testNodes(1, 2, 4)},
		"consumer short":          {"C", testNodes(1, 2)},
		"consumer on one removed": {"C", testNodes(1, 2, 5)},
	} {
		fx := f.do(&Entry{Op: OpPlace, Stream: "S", Consumer: c.consumer, Nodes: c.nodes})
		if fx.Error == nil || fx.Error.ErrCode != 10005 {
			t.Errorf("%s: %+v", name, fx)
		}
	}
	f.want(f.place("X", 1, 2, 3), api.ErrConsumerNotFound)
	f.want(f.do(&Entry{Op: OpPlaced, Stream: "S", Consumer: "X", Members: members(1, 1)}), api.ErrConsumerNotFound)
	f.want(f.do(&Entry{Op: OpPlace, Stream: "X", Nodes: testNodes(1)}), api.ErrStreamNotFound)
}

func TestRepairs(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", Replicas: 3}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "D", Replicas: 1}), nil)
	f.at("1.1,2.2,3.3", "C 3.1,1.2,2.3", "D 1.1")
	repair := func(all []Candidate, want ...string) {
		t.Helper()
		var got []string
		for _, e := range f.Repairs(all, "", 10) {
			var nodes []string
			for _, n := range e.Nodes {
				nodes = append(nodes, fmt.Sprint(n>>NodeBits))
			}
			got = append(got, e.Stream+e.Consumer+" "+strings.Join(nodes, ","))
			f.want(f.do(&e), nil)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("repairs %q, want %q", got, want)
		}
	}
	repair(candidates(f.Machine))
	f.want(f.do(&Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(1)}}), nil)
	all := candidates(f.Machine)
	repair(slices.DeleteFunc(slices.Clone(all), func(c Candidate) bool { return c.Node > testNode(3) })) // nobody has room
	for i := range all {
		all[i].Online = all[i].Node != testNode(4)
	}
	repair(all, "S 2,3,5")
	f.at("1.1,2.2,3.3>2.2,3.3,5.4", "C 3.1,1.2,2.3>2.3,3.1,5.4", "D 1.1")
	repair(all) // D is lost
	f.want(f.do(&Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(5)}}), nil)
	all = candidates(f.Machine)
	repair(all, "S 2,3,4") // the target is gone, too
	f.at("1.1,2.2,3.3>2.2,3.3,4.5-5.4", "C 3.1,1.2,2.3>2.3,3.1,4.5-5.4", "D 1.1")
	f.want(f.placed("C"), nil)
	f.want(f.placed(""), nil)
	f.at("2.2,3.3,4.5", "C 2.3,3.1,4.5", "D 1.1")
}

func TestNodes(t *testing.T) {
	f := newFixture(t)
	refused := func(fx Effects, why string) {
		t.Helper()
		if fx.Error == nil || fx.Changed || !strings.Contains(fx.Error.Description, why) {
			t.Fatalf("%+v, want %q", fx.Error, why)
		}
	}
	fx := f.do(putNode(1, 0))
	if fx.Error != nil || fx.Changed || fx.Nodes || fx.Created {
		t.Errorf("entered again: %+v", fx)
	}
	tagged := putNode(1, 0)
	tagged.Node.Tags = []string{"zone:a"}
	if fx = f.do(tagged); fx.Error != nil || !fx.Changed || !fx.Nodes || fx.Created {
		t.Errorf("tagged: %+v", fx)
	}
	other := putNode(6, 0)
	other.Node.Name = "n2"
	refused(f.do(other), `server name "n2" is that of another node of the cluster`)
	other = putNode(1, 0)
	other.Node.Replica++
	refused(f.do(other), "is that of another node of the cluster")
	wrong := putNode(6, 2)
	wrong.Node.Name = "n6"
	refused(f.do(wrong), `is named "n2"`)
	fx = f.do(putNode(6, 2)) // wiped, with the same name
	if fx.Error != nil || !fx.Changed || !fx.Created || !fx.Nodes {
		t.Errorf("replaced: %+v", fx)
	}
	if n, ok := f.Node(testNode(2)); !ok || !n.Removed {
		t.Errorf("node %+v", n)
	}
	if fx = f.do(putNode(6, 2)); fx.Error != nil || fx.Changed {
		t.Errorf("replaced again: %+v", fx)
	}
	refused(f.do(putNode(2, 0)), "was removed from the cluster")
	f.want(f.do(&Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(2)}}), api.ErrClusterServerNotMember)
	f.want(f.do(&Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(9)}}), api.ErrClusterServerNotMember)
	f.want(f.do(&Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(3)}}), nil)
	if got := len(f.Nodes()); got != 6 {
		t.Errorf("%d nodes", got)
	}
}

func TestRemovedOfLogs(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", Replicas: 3}), nil)
	f.want(f.place("", 1, 2, 4), nil)
	f.want(f.placed(""), nil)
	f.at("1.1,2.2,4.4")
	log := func(generation uint64) uint64 { return FirstGroup | generation<<groupBits }
	for _, c := range []struct {
		node, log uint64
		want      bool
	}{
		{1, log(0), false}, {2, log(0), false}, {4, log(4), false}, // carried
		{3, log(0), true},                      // it left
		{4, log(0), false}, {5, log(0), false}, // it did not begin there
		{1, log(4), true}, {4, log(3), true}, // given out, and of nobody
		{4, log(5), false},                    // not given out
		{1, log(0) + 1, false}, {1, 1, false}, // no such group
	} {
		if got := f.Removed(testNode(c.node), c.log); got != c.want {
			t.Errorf("Removed(%d, %x) = %v", c.node, c.log, got)
		}
	}
	f.want(f.do(&Entry{Op: OpDeleteStream, Stream: "S"}), nil)
	for _, generation := range []uint64{0, 4} {
		if !f.Removed(testNode(4), log(generation)) {
			t.Errorf("log %x of a deleted group is kept", log(generation))
		}
	}
}

// TestFounderLeaves gives a group of version 1 other nodes, one with the generation that the founder's raw id ends in.
func TestFounderLeaves(t *testing.T) {
	m := New(1<<NodeBits | 2)
	log, _ := kept(t, "v1")
	f := &fixture{Machine: m, t: t, limits: api.Limits{Account: api.Unlimited(), Clustered: true}}
	for _, b := range log {
		if _, err := m.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
	one := putNode(1, 0)
	one.Node.Replica = 1<<NodeBits | 2
	f.want(f.do(one), nil)
	f.want(f.do(putNode(2, 0)), nil)
	move := func(node uint64) {
		t.Helper()
		f.want(f.do(&Entry{Op: OpPlace, Account: "$G", Stream: "ORDERS", Nodes: testNodes(node)}), nil)
		carryOut(f)
		carryOut(f)
	}
	move(2)
	move(1)
	s, _ := f.Stream("$G", "ORDERS")
	c, _ := f.Consumer("$G", "ORDERS", "C")
	for _, g := range []Group{s.Group, c.Group} {
		if got := show(&g); got != "1.3" || g.LogOf(g.Members[0]) != g.ID|3<<groupBits {
			t.Errorf("at %s with log %x", got, g.LogOf(g.Members[0]))
		}
	}
}

// A replica that has failed leaves, and another one with a generation of its own comes in its place.
func TestFailedReplicaIsReplaced(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", Replicas: 3}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), nil)
	f.at("1.1,2.2,3.3", "C 3.1,1.2,2.3")
	evict := func(consumer string, node, generation uint64) Effects {
		return f.do(&Entry{Op: OpEvict, Stream: "S", Consumer: consumer, Members: members(node, generation)})
	}
	if fx := evict("", 2, 7); fx.Error != nil || !fx.Stale || fx.Changed {
		t.Errorf("a replica that there is not: %+v", fx)
	}
	f.want(evict("D", 2, 2), api.ErrConsumerNotFound)
	if fx := evict("", 2, 2); fx.Error != nil || !fx.Changed || fx.Consumer != nil {
		t.Errorf("evicted: %+v", fx)
	}
	f.at("1.1,2.2,3.3>1.1,3.3", "C 3.1,1.2,2.3>3.1,1.2")
	f.want(evict("", 3, 3), api.ErrClusterServerMemberChangeInflight)
	f.want(f.placed("C"), nil)
	f.want(f.placed(""), nil)
	f.at("1.1,3.3", "C 3.1,1.2")
	if fx := evict("", 1, 1); fx.Error == nil {
		t.Errorf("the last but one is evicted: %+v", fx)
	}
	f.want(f.place("", 1, 3, 2), nil)
	f.want(f.placed(""), nil)
	f.want(f.placed("C"), nil)
	f.at("1.1,3.3,2.4", "C 1.2,3.1,2.4")

	if fx := evict("C", 3, 1); fx.Error != nil || !fx.Changed || fx.Consumer == nil {
		t.Errorf("a consumer: %+v", fx)
	}
	f.at("1.1,3.3,2.4", "C 1.2,3.1,2.4>1.2,2.4")
}
