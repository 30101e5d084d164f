package meta

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
)

var rewrite = flag.Bool("rewrite", false, "write testdata again")

// someEntries are entries of the newest version, at least one of each operation.
func someEntries(t testing.TB) [][]byte {
	limits := &api.Limits{Account: api.Unlimited(), MaxConsumers: api.DefaultMaxConsumers, Clustered: true}
	config := api.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxAge: time.Hour, Replicas: 3,
		ConsumerLimits: api.ConsumerLimits{MaxAckPending: 500}}
	s, apiErr := config.Normalize(limits, false)
	if apiErr != nil {
		t.Fatal(apiErr)
	}
	until := testTime.Add(time.Hour)
	tagged := *putNode(5, 0)
	tagged.Node.Tags = []string{"zone:a"}
	list := []Entry{*putNode(1, 0), *putNode(2, 0), *putNode(3, 0), *putNode(4, 0), tagged}
	for _, e := range []Entry{
		{Op: OpPutStream, Stream: "ORDERS", StreamConfig: &s, Action: ActionCreate, Limits: limits, Nodes: testNodes(1, 2, 3)},
		{Op: OpPutConsumer, Stream: "ORDERS", Consumer: "C", Limits: limits, Nodes: testNodes(3, 1, 2),
			ConsumerConfig: &api.ConsumerConfig{Durable: "C", AckPolicy: api.AckExplicit, BackOff: []time.Duration{time.Second}}},
		{Op: OpPutConsumer, Stream: "ORDERS", Consumer: "D", Limits: limits, Action: ActionCreate,
			ConsumerConfig: &api.ConsumerConfig{Durable: "D", DeliverSubject: "d", Replicas: 1}},
		{Op: OpPauseConsumer, Stream: "ORDERS", Consumer: "C", PauseUntil: &until},
		{Op: OpDeleteConsumer, Stream: "ORDERS", Consumer: "D"},
		{Op: OpDeleteStream, Stream: "NONE"},
		{Op: OpPlace, Stream: "ORDERS", Nodes: testNodes(1, 2, 4)},
		{Op: OpPlaced, Stream: "ORDERS", Consumer: "C", Members: members(1, 2, 2, 3, 4, 4)},
		{Op: OpPlaced, Stream: "ORDERS", Members: members(1, 1, 2, 2, 4, 4)},
		{Op: OpPlace, Stream: "ORDERS", Nodes: testNodes(1, 2, 5)},
		{Op: OpPlace, Stream: "ORDERS", Nodes: testNodes(1, 2, 4)},
	} {
		e.Account = "$G"
		list = append(list, e)
	}
	list = append(list, Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(3)}}, *putNode(6, 5))
	var encoded [][]byte
	for i, e := range list {
		e.Time, e.ID = testTime, fmt.Sprint(i)
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		encoded = append(encoded, b)
	}
	return encoded
}

// members makes members of pairs of a node and a generation.
func members(pairs ...uint64) []Member {
	var list []Member
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, Member{Node: testNode(pairs[i]), Replica: pairs[i]<<NodeBits | pairs[i+1]})
	}
	return list
}

// apply applies entries to a new machine.
func apply(t testing.TB, entries [][]byte) *Machine {
	m := New(testReplica(1))
	for _, b := range entries {
		if _, err := m.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// kept reads the log (one entry a line) and the snapshot that testdata keeps of a version. Once a version is
// released its files stay as they are.
func kept(t testing.TB, version string) (log [][]byte, snapshot []byte) {
	t.Helper()
	entries, err := os.ReadFile(filepath.Join("testdata", version, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if snapshot, err = os.ReadFile(filepath.Join("testdata", version, "snapshot")); err != nil {
		t.Fatal(err)
	}
	return bytes.Split(entries, []byte("\n")), snapshot
}

// TestFormatV1 reads what standalone nodes wrote: the founder carries it all.
func TestFormatV1(t *testing.T) {
	log, snapshot := kept(t, "v1")
	m := apply(t, log)
	restored := New(testReplica(1))
	if err := restored.Restore(snapshot); err != nil {
		t.Fatal(err)
	}
	if got, want := m.Snapshot(), restored.Snapshot(); !bytes.Equal(got, want) {
		t.Errorf("the log gives\n%s\nthe snapshot\n%s", got, want)
	}
	c, ok := restored.Consumer("$G", "ORDERS", "C")
	if !ok || c.Config.AckWait != time.Second || c.Config.PauseUntil == nil {
		t.Errorf("consumer %+v, %v", c, ok)
	}
	s, _ := restored.Stream("$G", "ORDERS")
	for _, g := range []Group{s.Group, c.Group} {
		want := Member{Node: testNode(1), Replica: testReplica(1)}
		if member, ok := g.Replica(testNode(1)); !ok || member != want || len(g.Members) != 1 || g.LogOf(member) != g.ID ||
			!slices.Equal(g.Began, []uint64{testReplica(1)}) {
			t.Errorf("group %+v", g)
		}
	}
	if s.Group.ID != FirstGroup || c.Group.ID != FirstGroup+1 {
		t.Errorf("groups %d and %d", s.Group.ID, c.Group.ID)
	}
}

// TestFormatV2 reads what the nodes of a cluster write.
func TestFormatV2(t *testing.T) {
	if *rewrite {
		dir := filepath.Join("testdata", "v2")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"log": bytes.Join(someEntries(t), []byte("\n")), "snapshot": apply(t, someEntries(t)).Snapshot()} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	log, want := kept(t, "v2")
	m := apply(t, log)
	if got := m.Snapshot(); !bytes.Equal(got, want) {
		t.Errorf("the log gives\n%s\nwant\n%s", got, want)
	}
	restored := New(0)
	if err := restored.Restore(want); err != nil {
		t.Fatal(err)
	}
	s, _ := restored.Stream("$G", "ORDERS")
	if g := s.Group; !slices.Equal(nodesOf(g.Target), testNodes(1, 2, 4)) || !slices.Equal(nodesOf(g.Leaving), testNodes(5)) || g.Given != 5 {
		t.Errorf("group %+v", g)
	}
	if n, _ := restored.Node(testNode(3)); !n.Removed {
		t.Errorf("node %+v", n)
	}
}

func TestRestoreRefusesDamage(t *testing.T) {
	m := apply(t, someEntries(t))
	good := m.Snapshot()
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if err := m.Restore(bad); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("flipped byte %d: %v", i, err)
		}
		if err := m.Restore(good[:i]); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if !bytes.Equal(m.Snapshot(), good) {
		t.Error("a refused snapshot changed the catalogue")
	}
}

// TestRestoreRefusesBrokenInvariants writes snapshots with a good checksum from bad catalogues.
func TestRestoreRefusesBrokenInvariants(t *testing.T) {
	for name, damage := range map[string]func(m *Machine){
		"group used twice": func(m *Machine) { m.accounts["$G"]["ORDERS"].consumers["C"].Group.ID = FirstGroup },
		"group above next": func(m *Machine) { m.next = FirstGroup },
		"next too small":   func(m *Machine) { m.next, m.accounts = 0, nil },
		"two of a name": func(m *Machine) {
			n := m.nodes[testNode(2)]
			n.Name = "n1"
			m.nodes[n.ID] = n
		},
		"two of a node": func(m *Machine) {
			m.accounts["$G"]["ORDERS"].Group.Leaving = members(4, 5)
		},
		"generation not given": func(m *Machine) { m.accounts["$G"]["ORDERS"].Group.Given = 3 },
		"no members":           func(m *Machine) { m.accounts["$G"]["ORDERS"].Group.Members = nil },
		"no beginning":         func(m *Machine) { m.accounts["$G"]["ORDERS"].Group.Began = nil },
		"leaving for nothing":  func(m *Machine) { m.accounts["$G"]["ORDERS"].Group.Target = nil },
		"replica elsewhere": func(m *Machine) {
			m.accounts["$G"]["ORDERS"].Group.Members = []Member{{Node: testNode(1), Replica: 2<<NodeBits | 1}}
		},
		"consumer elsewhere": func(m *Machine) {
			g := &m.accounts["$G"]["ORDERS"].consumers["C"].Group
			g.Target, g.Given = members(6, 9), 9
		},
		"other name":    func(m *Machine) { m.accounts["$G"]["ORDERS"].Name = "X" },
		"other account": func(m *Machine) { m.accounts["$G"]["ORDERS"].consumers["C"].Account = "X" },
		"overlap": func(m *Machine) {
			s := *m.accounts["$G"]["ORDERS"]
			config := s.Config.Clone()
			config.Name = "Z"
			s.Name, s.Group.ID, s.Config, s.consumers = "Z", m.group(), &config, nil
			m.accounts["$G"]["Z"] = &s
		},
	} {
		m := apply(t, someEntries(t))
		damage(m)
		if err := New(testReplica(1)).Restore(m.Snapshot()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEntryEncodeRefusesWhatIsMissing(t *testing.T) {
	limits, c := &api.Limits{}, &api.ConsumerConfig{Durable: "C"}
	until := testTime
	for _, tc := range []struct {
		entry Entry
		field string
	}{
		{Entry{Op: OpPutStream, Stream: "S", Action: ActionCreate, Limits: limits}, "stream_config"},
		{Entry{Op: OpPutStream, Stream: "S", StreamConfig: &api.StreamConfig{Name: "T"}, Action: ActionCreate, Limits: limits}, "stream_config"},
		{Entry{Op: OpPutStream, Stream: "S", StreamConfig: &api.StreamConfig{Name: "S"}, Limits: limits}, "action"},
		{Entry{Op: OpPutStream, Stream: "S", StreamConfig: &api.StreamConfig{Name: "S"}, Action: ActionCreate}, "limits"},
		{Entry{Op: OpPutConsumer, Stream: "S", Consumer: "D", ConsumerConfig: c, Limits: limits}, "consumer_config"},
		{Entry{Op: OpPutConsumer, Stream: "S", Consumer: "C", ConsumerConfig: c, Limits: limits, Action: "x"}, "action"},
		{Entry{Op: OpPutConsumer, Consumer: "C", ConsumerConfig: c, Limits: limits}, "stream"},
		{Entry{Op: OpPutStream, Stream: "S/", StreamConfig: &api.StreamConfig{Name: "S/"}, Action: ActionCreate, Limits: limits}, "stream"},
		{Entry{Op: OpPutConsumer, Stream: "S", Consumer: "C/", ConsumerConfig: &api.ConsumerConfig{Durable: "C/"}, Limits: limits}, "consumer"},
		{Entry{Op: OpDeleteConsumer, Stream: "S"}, "consumer"},
		{Entry{Op: OpDeleteStream, Stream: "S", Consumer: "C"}, "consumer"},
		{Entry{Op: OpDeleteStream, Stream: "S", Limits: limits}, "limits"},
		{Entry{Op: OpDeleteStream, Stream: "S", Pedantic: true}, "consumer_config"},
		{Entry{Op: OpDeleteStream, Stream: "S", Action: ActionCreate}, "action"},
		{Entry{Op: OpDeleteStream, Stream: "S", StreamConfig: &api.StreamConfig{}}, "stream_config"},
		{Entry{Op: OpDeleteStream, Stream: "S", PauseUntil: &until}, "pause_until"},
		{Entry{Op: OpDeleteStream, Stream: "S", Nodes: testNodes(1)}, "nodes"},
		{Entry{Op: OpPlace, Stream: "S"}, "nodes"},
		{Entry{Op: OpPlace, Stream: "S", Nodes: testNodes(1), Members: members(1, 1)}, "members"},
		{Entry{Op: OpPlaced, Stream: "S"}, "members"},
		{Entry{Op: OpPlaced, Stream: "S", Members: members(1, 1), Nodes: testNodes(1)}, "nodes"},
		{Entry{Op: OpPutNode}, "node"},
		{Entry{Op: OpPutNode, Node: &Node{ID: 1, Replica: 1}}, "node"},
		{Entry{Op: OpPutNode, Node: &Node{ID: testNode(1), Replica: testReplica(2)}}, "node"},
		{Entry{Op: OpPutNode, Node: &Node{ID: testNode(1), Replica: testReplica(1), Removed: true}}, "node"},
		{Entry{Op: OpPutNode, Node: &Node{ID: testNode(1), Replica: testReplica(1)}, Replaces: testNode(1)}, "replaces"},
		{Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(1)}, Replaces: testNode(2)}, "replaces"},
		{Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(1)}, Stream: "S"}, "stream"},
		{Entry{Op: OpRemoveNode, Node: &Node{ID: testNode(1)}, Consumer: "S"}, "consumer"},
		{Entry{Op: "x", Stream: "S"}, "op"},
	} {
		if tc.entry.Node == nil {
			tc.entry.Account = "A"
		}
		_, err := tc.entry.Encode()
		if !errors.Is(err, ErrInvalidEntry) || !strings.Contains(err.Error(), ": "+tc.field+":") {
			t.Errorf("%+v: %v, want %s named", tc.entry, err, tc.field)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, b := range someEntries(f) {
		f.Add(b)
	}
	log, _ := kept(f, "v1")
	for _, b := range log {
		f.Add(b)
	}
	f.Add([]byte{entryV1, '{', '}'})
	for _, at := range []string{"time", "pause_until"} {
		f.Add(append([]byte{entryV1}, `{"op":"pause_consumer","time":"2026-01-02T03:04:05Z","account":"A","stream":"S","consumer":"C","`+
			at+`":"9999-12-31T23:59:59-12:00"}`...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := DecodeEntry(b)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		m := apply(t, append(someEntries(t), b, again))
		if err := New(testReplica(1)).Restore(m.Snapshot()); err != nil {
			t.Fatalf("%q: %v", again, err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	entries := someEntries(f)
	for i := range entries {
		f.Add(apply(f, entries[:i]).Snapshot())
	}
	_, v1 := kept(f, "v1")
	f.Add(v1)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New(testReplica(1))
		if m.Restore(b) != nil {
			return
		}
		if err := New(testReplica(1)).Restore(m.Snapshot()); err != nil {
			t.Fatal(err)
		}
	})
}
