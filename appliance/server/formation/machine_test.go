package formation

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

var begin = time.Unix(1_000_000, 0)

func machine(node uint64, state State, size int) *Machine {
	n := node
	return New(Config{Node: node, Random: func() uint64 { n = n*6364136223846793005 + 1442695040888963407; return n }}, state, size)
}

func kindsOf(eff Effects) []Kind {
	var list []Kind
	for _, m := range eff.Send {
		list = append(list, m.Kind)
	}
	return list
}

func TestMachineAloneFormsAtOnce(t *testing.T) {
	m := machine(5, State{}, 1)
	eff := m.Tick(begin)
	if eff.Decided == nil || !slices.Equal(eff.Decided.Founders, []uint64{5}) || eff.Decided.Cluster == [16]byte{} {
		t.Fatalf("decided %v", eff.Decided)
	}
	if eff.Persist == nil || !eff.Persist.Decided || !eff.Persist.Value.Equal(*eff.Decided) {
		t.Errorf("to be stored: %+v", eff.Persist)
	}
	again, err := DecodeState(eff.Persist.Encode())
	if err != nil {
		t.Fatal(err)
	}
	after := machine(5, again, 9)
	if d := after.Decision(); d == nil || !d.Equal(*eff.Decided) {
		t.Errorf("after a restart: %v", d)
	}
	if eff := after.Tick(begin); eff.Decided != nil || eff.Persist != nil || len(eff.Send) > 0 {
		t.Errorf("a formed node does %+v by itself", eff)
	}
	// It answers everybody, whatever they want.
	for _, kind := range []Kind{Hello, Prepare, Accept, Promise, Accepted, Refuse} {
		eff := after.Receive(begin, Message{Kind: kind, From: 7, Ballot: Ballot{1, 7}, Value: valueFor(kind)})
		if len(eff.Send) != 1 || eff.Send[0].Kind != Decision || eff.Send[0].To != 7 || eff.Persist != nil {
			t.Errorf("answer to %s: %+v", kind, eff)
		}
	}
	other := Value{[16]byte{9}, []uint64{7}}
	if after.Receive(begin, Message{Kind: Decision, From: 7, Value: other}); !after.Decision().Equal(*eff.Decided) && eff.Decided != nil {
		t.Error("the decision of another cluster was taken")
	}
}

func valueFor(k Kind) Value {
	if k == Accept {
		return Value{[16]byte{1}, []uint64{7}}
	}
	return Value{}
}

// crew runs machines that hear each other at once.
type crew struct {
	t        *testing.T
	now      time.Time
	machines []*Machine
	decided  []Value
}

func (c *crew) carry(eff Effects) {
	if eff.Decided != nil {
		c.decided = append(c.decided, *eff.Decided)
	}
	for _, msg := range eff.Send {
		for _, m := range c.machines {
			if m.cfg.Node != msg.From && (msg.To == 0 || msg.To == m.cfg.Node) {
				c.carry(m.Receive(c.now, msg))
			}
		}
	}
}

func (c *crew) run(d time.Duration) {
	for end := c.now.Add(d); c.now.Before(end); c.now = c.now.Add(100 * time.Millisecond) {
		for _, m := range c.machines {
			c.carry(m.Tick(c.now))
		}
	}
}

func TestMachineFoundersAreAllThatArePresent(t *testing.T) {
	c := &crew{t: t, now: begin, machines: []*Machine{machine(3, State{}, 3), machine(2, State{}, 3)}}
	c.run(time.Second) // a majority, which waits
	if len(c.decided) > 0 {
		t.Fatalf("decided %v without waiting", c.decided)
	}
	c.machines = append(c.machines, machine(1, State{}, 3))
	c.run(2 * time.Second)
	if len(c.decided) != 3 || !slices.Equal(c.decided[0].Founders, []uint64{1, 2, 3}) {
		t.Errorf("decided %v", c.decided)
	}
	late := machine(4, State{}, 4)
	c.machines = append(c.machines, late)
	c.run(time.Second)
	if d := late.Decision(); d == nil || !d.Equal(c.decided[0]) {
		t.Errorf("the fourth has %v", d)
	}
}

func TestMachineMajorityDoesNotWaitForEver(t *testing.T) {
	c := &crew{t: t, now: begin, machines: []*Machine{machine(1, State{}, 3), machine(2, State{}, 3)}}
	c.run(5 * time.Second)
	if len(c.decided) != 2 || !slices.Equal(c.decided[0].Founders, []uint64{1, 2}) || !c.decided[1].Equal(c.decided[0]) {
		t.Errorf("decided %v", c.decided)
	}
	if s := c.machines[0].Status(c.now); s.Needed != 2 {
		t.Errorf("status %+v", s)
	}
}

func TestMachineSizeIsTheLargestThatAnyoneKnows(t *testing.T) {
	c := &crew{t: t, now: begin, machines: []*Machine{machine(1, State{}, 2), machine(2, State{}, 5)}}
	c.run(20 * time.Second)
	if len(c.decided) > 0 {
		t.Fatalf("two of five decided %v", c.decided)
	}
	// The routes of the second turn out to lead to routers.
	for _, m := range c.machines {
		c.carry(m.See(c.now, 2))
	}
	c.run(10 * time.Second)
	if len(c.decided) != 2 {
		t.Errorf("decided %v", c.decided)
	}
}

func TestMachineWithDataFoundsItsOwn(t *testing.T) {
	used := machine(3, State{}, 3)
	c := &crew{t: t, now: begin, machines: []*Machine{machine(1, State{}, 3), used, machine(2, State{}, 3)}}
	eff := used.Found(c.now)
	if eff.Persist == nil || eff.Decided == nil || !slices.Equal(eff.Decided.Founders, []uint64{3}) {
		t.Fatalf("found: %+v", eff)
	}
	c.carry(eff)
	c.run(time.Second)
	for _, m := range c.machines {
		if d := m.Decision(); d == nil || !d.Equal(*eff.Decided) {
			t.Errorf("node %d has %v, want %v", m.cfg.Node, d, eff.Decided)
		}
	}
	if eff := used.Found(c.now); eff.Persist != nil || eff.Decided != nil {
		t.Errorf("found again: %+v", eff)
	}
}

// TestMachineThatJoinsFoundsNothing has nodes that heard of a cluster whose nodes are away.
func TestMachineThatJoinsFoundsNothing(t *testing.T) {
	a, b := machine(1, State{}, 2), machine(2, State{}, 2)
	c := &crew{t: t, now: begin, machines: []*Machine{a, b}}
	cluster := [16]byte{1, 2, 3}
	eff := a.Join(c.now, cluster)
	if eff.Persist == nil || eff.Persist.Joins != cluster {
		t.Fatalf("to be stored: %+v", eff.Persist)
	}
	c.carry(eff)
	c.run(20 * time.Second)
	if len(c.decided) > 0 {
		t.Fatalf("decided %v", c.decided)
	}
	if s := a.Status(c.now); s.Joins != cluster {
		t.Errorf("status %+v", s)
	}
	c.carry(a.Receive(c.now, Message{Kind: Decision, From: 9, Value: Value{[16]byte{4}, []uint64{9}}}))
	if a.Decision() != nil {
		t.Error("took the decision of a third cluster")
	}
	c.carry(a.Receive(c.now, Message{Kind: Decision, From: 9, Value: Value{cluster, []uint64{9}}}))
	c.run(time.Second)
	for _, m := range c.machines {
		if d := m.Decision(); d == nil || d.Cluster != cluster {
			t.Errorf("node %d has %v", m.cfg.Node, d)
		}
	}
}

func TestMachineIgnoresWhatIsNotForIt(t *testing.T) {
	m := machine(1, State{}, 3)
	m.Tick(begin)
	for _, msg := range []Message{
		{Kind: Prepare, From: 1, Ballot: Ballot{1, 1}}, {Kind: Prepare, From: 2, To: 3, Ballot: Ballot{1, 2}},
		{Kind: Accept, From: 2, Ballot: Ballot{1, 2}}, {Kind: 99, From: 2}, {Kind: Prepare, From: 2},
	} {
		if eff := m.Receive(begin, msg); eff.Persist != nil || len(eff.Send) > 0 {
			t.Errorf("%+v leads to %+v", msg, eff)
		}
	}
}

func TestMachinePromisesAreKept(t *testing.T) {
	m := machine(1, State{}, 9) // which makes no attempt of its own
	eff := m.Receive(begin, Message{Kind: Prepare, From: 2, Ballot: Ballot{5, 2}})
	if eff.Persist == nil || eff.Persist.Promised != (Ballot{5, 2}) || !slices.Contains(kindsOf(eff), Promise) {
		t.Fatalf("prepare: %+v", eff)
	}
	state := *eff.Persist
	for _, restarted := range []bool{false, true} {
		if restarted {
			m = machine(1, state, 9)
		}
		for _, old := range []Message{
			{Kind: Prepare, From: 3, Ballot: Ballot{4, 3}}, {Kind: Accept, From: 3, Ballot: Ballot{4, 3}, Value: valueFor(Accept)},
		} {
			eff := m.Receive(begin, old)
			if eff.Persist != nil || !slices.Contains(kindsOf(eff), Refuse) || slices.Contains(kindsOf(eff), Promise) || slices.Contains(kindsOf(eff), Accepted) {
				t.Errorf("restarted %v, %s: %+v", restarted, old.Kind, eff)
			}
		}
	}
	v := Value{[16]byte{1}, []uint64{1, 2}}
	eff = m.Receive(begin, Message{Kind: Accept, From: 2, Ballot: Ballot{5, 2}, Value: v})
	if eff.Persist == nil || eff.Persist.Accepted != (Ballot{5, 2}) || !eff.Persist.Value.Equal(v) {
		t.Fatalf("accept: %+v", eff)
	}
	eff = m.Receive(begin, Message{Kind: Prepare, From: 3, Ballot: Ballot{6, 3}})
	for _, msg := range eff.Send {
		if msg.Kind == Promise && (msg.Promised != (Ballot{5, 2}) || !msg.Value.Equal(v)) {
			t.Errorf("a promise hides what was accepted: %+v", msg)
		}
	}
}

func TestStateBytes(t *testing.T) {
	s := State{
		Promised: Ballot{7, 3}, Accepted: Ballot{6, 2}, Value: Value{[16]byte{1, 2}, []uint64{2, 3}}, Joins: [16]byte{5},
	}
	raw := s.Encode()
	got, err := DecodeState(raw)
	if err != nil || got.Promised != s.Promised || got.Accepted != s.Accepted || !got.Value.Equal(s.Value) || got.Joins != s.Joins || got.Decided {
		t.Errorf("got %+v, %v", got, err)
	}
	if s, err := DecodeState(nil); err != nil || s.Decided || s.Promised != (Ballot{}) {
		t.Errorf("no bytes: %+v, %v", s, err)
	}
	for n := 1; n < len(raw); n++ {
		if _, err := DecodeState(raw[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(raw))
		}
	}
	for _, bad := range [][]byte{append([]byte{2}, raw[1:]...), append(slices.Clone(raw), 0), append([]byte{1, 2}, raw[2:]...)} {
		if _, err := DecodeState(bad); err == nil {
			t.Errorf("%x is taken", bad)
		}
	}
	s.Promised = Ballot{5, 1}
	if _, err := DecodeState(s.Encode()); err == nil {
		t.Error("a state that accepted more than it promised is taken")
	}
}

func FuzzDecodeMessage(f *testing.F) {
	for _, m := range []Message{
		{Kind: Hello, From: 1, Size: 3}, {Kind: Prepare, From: 1, Ballot: Ballot{1, 1}},
		{Kind: Promise, From: 2, To: 1, Ballot: Ballot{2, 1}, Promised: Ballot{1, 1}, Value: Value{[16]byte{1}, []uint64{1, 2}}},
		{Kind: Decision, From: 3, Value: Value{[16]byte{1}, []uint64{1, 2, 3}}},
	} {
		f.Add(m.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			return
		}
		if again := m.Encode(); !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is %x", b, m, again)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	s := State{Promised: Ballot{7, 3}, Accepted: Ballot{6, 2}, Value: Value{[16]byte{1, 2}, []uint64{2, 3}}}
	f.Add(s.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err == nil && len(b) > 0 && !bytes.Equal(s.Encode(), b) {
			t.Errorf("%x is read as %+v", b, s)
		}
	})
}
