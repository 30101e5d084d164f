package meta

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// fixture is a machine whose invariants are checked after every entry.
type fixture struct {
	*Machine
	t      *testing.T
	limits api.Limits
}

// newFixture returns a machine with five nodes.
func newFixture(t *testing.T) *fixture {
	f := &fixture{Machine: New(testReplica(1)), t: t, limits: api.Limits{Account: api.Unlimited(), Clustered: true}}
	for i := range uint64(5) {
		f.want(f.do(putNode(i+1, 0)), nil)
	}
	return f
}

// testReplica is that of the meta group on node i.
func testReplica(i uint64) uint64 { return i<<NodeBits | 0x00abc }

// testNode is the id of node i.
func testNode(i uint64) uint64 { return NodeOf(testReplica(i)) }

func testNodes(list ...uint64) []uint64 {
	var nodes []uint64
	for _, i := range list {
		nodes = append(nodes, testNode(i))
	}
	return nodes
}

// putNode enters node i in place of another, if that is not 0.
func putNode(i, replaces uint64) *Entry {
	e := &Entry{Op: OpPutNode, Node: &Node{ID: testNode(i), Replica: testReplica(i), Name: fmt.Sprintf("n%d", i)}}
	if replaces != 0 {
		e.Replaces, e.Node.Name = testNode(replaces), fmt.Sprintf("n%d", replaces)
	}
	return e
}

// candidates are the nodes of a machine, all of them online.
func candidates(m *Machine) []Candidate {
	var list []Candidate
	carried := m.Carried()
	for _, n := range m.Nodes() {
		if !n.Removed {
			list = append(list, Candidate{Node: n.ID, Name: n.Name, Tags: n.Tags, Online: true, Replicas: carried[n.ID],
				StoreFree: UnknownRoom, MemoryFree: UnknownRoom})
		}
	}
	return list
}

// placeFor chooses the nodes of a stream as the engine does.
func placeFor(m *Machine, account string, c *api.StreamConfig) []uint64 {
	p := PlacementOf(c, "")
	if old, ok := m.Stream(account, c.Name); ok {
		p.Keep = nodesOf(old.Group.Carrying())
	}
	nodes, err := Place(candidates(m), p)
	if err != nil {
		return nil
	}
	return nodes
}

// do applies e through its encoding.
func (f *fixture) do(e *Entry) Effects {
	f.t.Helper()
	if e.Account == "" && e.Node == nil {
		e.Account = "A"
	}
	e.Time, e.ID = testTime, "id"
	if e.Op == OpPutStream || e.Op == OpPutConsumer {
		limits := f.limits
		e.Limits = &limits
	}
	b, err := e.Encode()
	if err != nil {
		f.t.Fatalf("encode: %v", err)
	}
	before := f.Snapshot()
	fx, err := f.Apply(b)
	if err != nil {
		f.t.Fatalf("apply: %v", err)
	}
	if fx.ID != e.ID {
		f.t.Fatalf("%s: effects of %q", b, fx.ID)
	}
	if err := f.check(); err != nil {
		f.t.Fatalf("after %s: %v", b, err)
	}
	if changed := !bytes.Equal(before, f.Snapshot()); changed != fx.Changed {
		f.t.Fatalf("%s: changed %v, effects say %v", b, changed, fx.Changed)
	}
	return fx
}

func (f *fixture) stream(action Action, c api.StreamConfig) Effects {
	f.t.Helper()
	n, err := c.Normalize(&f.limits, false)
	if err != nil {
		f.t.Fatalf("normalize: %v", err)
	}
	return f.do(&Entry{Op: OpPutStream, Stream: c.Name, StreamConfig: &n, Action: action,
		Nodes: placeFor(f.Machine, "A", &n)})
}

func (f *fixture) consumer(action Action, stream string, c api.ConsumerConfig) Effects {
	f.t.Helper()
	return f.do(&Entry{Op: OpPutConsumer, Stream: stream, Consumer: c.Durable, ConsumerConfig: &c, Action: action})
}

func (f *fixture) want(fx Effects, err *api.Error) {
	f.t.Helper()
	if (fx.Error == nil) != (err == nil) || err != nil && *fx.Error != *err {
		f.t.Fatalf("error %v, want %v", fx.Error, err)
	}
	if err != nil && (fx.Changed || fx.Removed != nil) {
		f.t.Fatalf("a refused entry has effects: %+v", fx)
	}
}

func TestMachineStreamLife(t *testing.T) {
	f := newFixture(t)
	fx := f.stream(ActionCreate, api.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	f.want(fx, nil)
	if !fx.Created || fx.Stream.Group.ID != FirstGroup || !fx.Stream.Created.Equal(testTime) {
		t.Errorf("created: %+v", fx)
	}
	fx = f.stream(ActionCreate, api.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	f.want(fx, nil)
	if fx.Created || fx.Changed || fx.Stream.Group.ID != FirstGroup {
		t.Errorf("created again: %+v", fx)
	}
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", MaxMsgs: 3}), api.ErrStreamNameExist)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "T", Subjects: []string{"s.x"}}), api.ErrStreamSubjectOverlap)
	f.want(f.stream(ActionUpdate, api.StreamConfig{Name: "T"}), api.ErrStreamNotFound)

	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "T"}), nil)
	f.want(f.stream(ActionUpdate, api.StreamConfig{Name: "T", Subjects: []string{"s.x"}}), api.ErrStreamSubjectOverlap)
	f.want(f.stream(ActionUpdate, api.StreamConfig{Name: "T", Storage: api.MemoryStorage}),
		api.ErrStreamInvalidConfigF("stream configuration update can not change storage type"))
	fx = f.stream(ActionUpdate, api.StreamConfig{Name: "T", Sealed: true, MaxAge: time.Hour})
	f.want(fx, nil)
	if c := fx.Stream.Config; c.MaxAge != 0 || !c.DenyDelete || c.Discard != api.DiscardNew {
		t.Errorf("sealed: %+v", c)
	}
	if got, ok := f.Stream("A", "T"); !ok || !got.Config.Sealed || got.Group.ID != FirstGroup+1 {
		t.Errorf("looked up: %+v, %v", got, ok)
	}

	fx = f.do(&Entry{Op: OpDeleteStream, Stream: "S"})
	f.want(fx, nil)
	if !slices.Equal(fx.Removed, []uint64{FirstGroup}) {
		t.Errorf("removed %v", fx.Removed)
	}
	for _, name := range []string{"S", "a/b"} {
		f.want(f.do(&Entry{Op: OpDeleteStream, Stream: name}), api.ErrStreamNotFound)
	}
	fx = f.stream(ActionCreate, api.StreamConfig{Name: "S"})
	if fx.Stream.Group.ID != FirstGroup+2 {
		t.Errorf("group %d is not new", fx.Stream.Group.ID)
	}
}

func TestMachineAccountsAreApart(t *testing.T) {
	f := newFixture(t)
	c, err := (&api.StreamConfig{Name: "S"}).Normalize(&f.limits, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range []string{"B", "A"} {
		f.want(f.do(&Entry{Op: OpPutStream, Account: account, Stream: "S", StreamConfig: &c, Action: ActionCreate, Nodes: testNodes(1)}), nil)
	}
	if got := f.Accounts(); !slices.Equal(got, []string{"A", "B"}) {
		t.Errorf("accounts %v", got)
	}
	f.want(f.do(&Entry{Op: OpDeleteStream, Account: "B", Stream: "S"}), nil)
	if got := f.Accounts(); !slices.Equal(got, []string{"A"}) {
		t.Errorf("accounts %v", got)
	}
	if _, ok := f.Stream("A", "S"); !ok {
		t.Error("deleted in the other account")
	}
}

func TestMachineLimits(t *testing.T) {
	f := newFixture(t)
	f.limits.Account.MaxStreams, f.limits.Account.MaxStore, f.limits.MaxConsumers = 2, 100, 1
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", MaxBytes: 60}), nil)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "T", MaxBytes: 60}), api.ErrStorageResourcesExceeded)
	f.want(f.stream(ActionUpdate, api.StreamConfig{Name: "S", MaxBytes: 100}), nil)
	f.want(f.stream(ActionUpdate, api.StreamConfig{Name: "S", MaxBytes: 101}), api.ErrStorageResourcesExceeded)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "M", MaxBytes: 1000, Storage: api.MemoryStorage}), nil)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "T", Storage: api.MemoryStorage}), api.ErrMaximumStreamsLimit)
	if got := f.Reserved("A", api.FileStorage); got != 100 {
		t.Errorf("reserved %d", got)
	}
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), nil)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "D"}), api.ErrMaximumConsumersLimit)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), nil)
}

func TestMachineConsumerLife(t *testing.T) {
	f := newFixture(t)
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "C"}), api.ErrStreamNotFound)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", Subjects: []string{"s.>"}}), nil)
	c := api.ConsumerConfig{Durable: "C", AckPolicy: api.AckExplicit}
	f.want(f.consumer(ActionUpdate, "S", c), api.ErrConsumerDoesNotExist)
	fx := f.consumer(ActionCreate, "S", c)
	f.want(fx, nil)
	if !fx.Created || fx.Consumer.Group.ID != FirstGroup+1 || fx.Consumer.Config.AckWait != api.DefaultAckWait {
		t.Errorf("created: %+v", fx.Consumer)
	}
	if fx = f.consumer(ActionCreate, "S", c); fx.Error != nil || fx.Changed || fx.Created {
		t.Errorf("created again: %+v", fx)
	}
	c.MaxAckPending = 7
	f.want(f.consumer(ActionCreate, "S", c), api.ErrConsumerAlreadyExists)
	old := fx.Consumer
	fx = f.consumer(ActionUpdate, "S", c)
	f.want(fx, nil)
	if fx.Created || !fx.Changed || fx.Consumer.Config.MaxAckPending != 7 || fx.Consumer.Group.ID != FirstGroup+1 {
		t.Errorf("updated: %+v", fx)
	}
	if old.Config.MaxAckPending != 1000 {
		t.Error("the configuration that a lookup returned has changed")
	}
	c.AckPolicy = api.AckAll
	f.want(f.consumer(ActionEither, "S", c), api.ErrConsumerCreateF("ack policy can not be updated"))
	f.want(f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: "D", DeliverSubject: "s.x"}), api.ErrConsumerDeliverCycle)

	until := testTime.Add(time.Hour)
	fx = f.do(&Entry{Op: OpPauseConsumer, Stream: "S", Consumer: "C", PauseUntil: &until})
	f.want(fx, nil)
	if !fx.Consumer.Config.PauseUntil.Equal(until) {
		t.Errorf("paused: %+v", fx.Consumer.Config)
	}
	c.AckPolicy, c.MaxAckPending = api.AckExplicit, 8
	if fx = f.consumer(ActionEither, "S", c); fx.Error != nil || !fx.Consumer.Config.PauseUntil.Equal(until) {
		t.Errorf("an update ended the pause: %+v, %v", fx.Consumer, fx.Error)
	}
	far := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -12*3600)) // year 10000 in UTC
	fx = f.do(&Entry{Op: OpPauseConsumer, Stream: "S", Consumer: "C", PauseUntil: &far})
	if fx.Error != nil || !fx.Consumer.Config.PauseUntil.Equal(far) {
		t.Errorf("paused for long: %+v", fx)
	}
	fx = f.do(&Entry{Op: OpPauseConsumer, Stream: "S", Consumer: "C"})
	if fx.Error != nil || fx.Consumer.Config.PauseUntil != nil {
		t.Errorf("resumed: %+v", fx)
	}

	f.want(f.stream(ActionUpdate, api.StreamConfig{Name: "S", Subjects: []string{"s.>"}, ConsumerLimits: api.ConsumerLimits{MaxAckPending: 5}}),
		api.ErrStreamUpdateF("change to limits violates consumers: C"))

	fx = f.do(&Entry{Op: OpDeleteConsumer, Stream: "S", Consumer: "C"})
	f.want(fx, nil)
	if !slices.Equal(fx.Removed, []uint64{FirstGroup + 1}) || fx.Consumer.Name != "C" {
		t.Errorf("deleted: %+v", fx)
	}
	f.want(f.do(&Entry{Op: OpDeleteConsumer, Stream: "S", Consumer: "C"}), api.ErrConsumerNotFound)
	f.want(f.do(&Entry{Op: OpPauseConsumer, Stream: "S", Consumer: "C"}), api.ErrConsumerNotFound)
}

func TestMachineWorkQueueConsumersDoNotShareMessages(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Retention: api.WorkQueuePolicy}), nil)
	put := func(name, filter string) Effects {
		t.Helper()
		return f.consumer(ActionEither, "S", api.ConsumerConfig{Durable: name, AckPolicy: api.AckExplicit, FilterSubject: filter})
	}
	f.want(put("C", "s.a.*"), nil)
	f.want(put("D", "s.b.*"), nil)
	f.want(put("E", ""), api.ErrConsumerWQMultipleUnfiltered)
	f.want(put("E", "s.*.x"), api.ErrConsumerWQConsumerNotUnique)
	f.want(put("D", "s.a.y"), api.ErrConsumerWQConsumerNotUnique)
	f.want(put("D", "s.c.y"), nil)
}

func TestMachineDeleteStreamRemovesConsumersFirst(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S"}), nil)
	for _, name := range []string{"C2", "C1"} {
		f.want(f.consumer(ActionCreate, "S", api.ConsumerConfig{Durable: name}), nil)
	}
	fx := f.do(&Entry{Op: OpDeleteStream, Stream: "S"})
	if want := []uint64{FirstGroup + 2, FirstGroup + 1, FirstGroup}; !slices.Equal(fx.Removed, want) {
		t.Errorf("removed %v, want %v", fx.Removed, want)
	}
	if got := f.Consumers("A", "S"); got != nil {
		t.Errorf("consumers left: %v", got)
	}
}

func TestMachineLookups(t *testing.T) {
	f := newFixture(t)
	for name, subjects := range map[string][]string{"B": {"b.>"}, "A": {"a.*", "x"}, "C": nil} {
		f.want(f.stream(ActionCreate, api.StreamConfig{Name: name, Subjects: subjects}), nil)
	}
	for filter, want := range map[string]string{"": "[A B C]", "a.>": "[A]", "b.c.d": "[B]", "C": "[C]", "*": "[A C]", "nope": "[]"} {
		names := []string{}
		for _, s := range f.Streams("A", filter) {
			names = append(names, s.Name)
		}
		if got := fmt.Sprint(names); got != want {
			t.Errorf("Streams(%q) = %v, want %v", filter, got, want)
		}
	}
	f.want(f.consumer(ActionCreate, "A", api.ConsumerConfig{Durable: "D"}), nil)
	if c, ok := f.Consumer("A", "A", "D"); !ok || c.Stream != "A" || c.Config.Name != "D" {
		t.Errorf("consumer %+v, %v", c, ok)
	}
	for _, at := range [][2]string{{"A", "E"}, {"X", "D"}} {
		if c, ok := f.Consumer("A", at[0], at[1]); ok {
			t.Errorf("consumer %+v is found", c)
		}
	}
	if got := f.Consumers("A", "X"); got != nil {
		t.Errorf("consumers of no stream: %v", got)
	}
}

func TestMachineDoesNotApplyWhatItCanNotRead(t *testing.T) {
	f := newFixture(t)
	f.want(f.stream(ActionCreate, api.StreamConfig{Name: "S"}), nil)
	before := f.Snapshot()
	for _, c := range []struct {
		version byte
		body    string
		want    error
	}{
		{0, `{}`, ErrVersion},
		{3, `{}`, ErrVersion},
		{1, ``, ErrCorrupt},
		{1, `{}x`, ErrCorrupt},
		{1, `{"op":"delete_stream","new":1}`, ErrCorrupt},
		{1, `{"op":"nope","stream":"S"}`, ErrInvalidEntry},
		{1, `{"op":"delete_stream","stream":"S"}`, ErrInvalidEntry},
		{1, `{"op":"put_stream","account":"A"}`, ErrInvalidEntry},
		{1, `{"op":"remove_node","node":{"id":1048575,"replica":1,"name":"n"}}`, ErrInvalidEntry},
		{2, `{"op":"put_node","node":{"id":1048574,"replica":1,"name":"n"}}`, ErrInvalidEntry},
		{2, `{"op":"put_node","account":"A","node":{"id":1048575,"replica":1,"name":"n"}}`, ErrInvalidEntry},
		{1, `{"op":"delete_stream","account":"A"}`, ErrInvalidEntry},
		{1, `{"op":"pause_consumer","account":"A"}`, ErrInvalidEntry},
	} {
		if _, err := f.Apply(append([]byte{c.version}, c.body...)); !errors.Is(err, c.want) {
			t.Errorf("Apply(%d, %s) = %v, want %v", c.version, c.body, err, c.want)
		}
	}
	if _, err := f.Apply(nil); !errors.Is(err, ErrVersion) {
		t.Errorf("Apply of nothing = %v", err)
	}
	if !bytes.Equal(before, f.Snapshot()) {
		t.Error("the catalogue changed")
	}
}
