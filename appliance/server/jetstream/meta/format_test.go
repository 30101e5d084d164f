package meta

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
)

var rewrite = flag.Bool("rewrite", false, "write testdata again")

// v1Entries are entries of version 1, at least one of each operation.
func v1Entries(t testing.TB) [][]byte {
	limits := &api.Limits{Account: api.Unlimited(), MaxConsumers: api.DefaultMaxConsumers}
	config := api.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.>"}, MaxAge: time.Hour,
		ConsumerLimits: api.ConsumerLimits{MaxAckPending: 500}}
	s, apiErr := config.Normalize(limits, false)
	if apiErr != nil {
		t.Fatal(apiErr)
	}
	until := testTime.Add(time.Hour)
	var list [][]byte
	for _, e := range []Entry{
		{Op: OpPutStream, Stream: "ORDERS", StreamConfig: &s, Action: ActionCreate, Limits: limits},
		{Op: OpPutConsumer, Stream: "ORDERS", Consumer: "C", Limits: limits,
			ConsumerConfig: &api.ConsumerConfig{Durable: "C", AckPolicy: api.AckExplicit, BackOff: []time.Duration{time.Second}}},
		{Op: OpPutConsumer, Stream: "ORDERS", Consumer: "D", Limits: limits, Action: ActionCreate,
			ConsumerConfig: &api.ConsumerConfig{Durable: "D", DeliverSubject: "d"}},
		{Op: OpPauseConsumer, Stream: "ORDERS", Consumer: "C", PauseUntil: &until},
		{Op: OpDeleteConsumer, Stream: "ORDERS", Consumer: "D"},
		{Op: OpDeleteStream, Stream: "NONE"},
	} {
		e.Account, e.Time = "$G", testTime
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// apply applies entries to a new machine.
func apply(t testing.TB, entries [][]byte) *Machine {
	m := New()
	for _, b := range entries {
		if _, err := m.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestFormatV1 reads the log (one entry a line) and the snapshot of version 1 that testdata keeps.
// Once a version is released its files stay as they are.
func TestFormatV1(t *testing.T) {
	log, snapshot := filepath.Join("testdata", "v1", "log"), filepath.Join("testdata", "v1", "snapshot")
	if *rewrite {
		if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(log, bytes.Join(v1Entries(t), []byte("\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(snapshot, apply(t, v1Entries(t)).Snapshot(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	m := apply(t, bytes.Split(entries, []byte("\n")))
	want, err := os.ReadFile(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Snapshot(); !bytes.Equal(got, want) {
		t.Errorf("the log gives\n%s\nwant\n%s", got, want)
	}
	restored := New()
	if err := restored.Restore(want); err != nil {
		t.Fatal(err)
	}
	c, ok := restored.Consumer("$G", "ORDERS", "C")
	if !ok || c.Config.AckWait != time.Second || c.Config.PauseUntil == nil {
		t.Errorf("consumer %+v, %v", c, ok)
	}
}

func TestRestoreRefusesDamage(t *testing.T) {
	m := apply(t, v1Entries(t))
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
		"group used twice": func(m *Machine) { m.accounts["$G"]["ORDERS"].consumers["C"].Group = FirstGroup },
		"group above next": func(m *Machine) { m.next = FirstGroup },
		"next too small":   func(m *Machine) { m.next, m.accounts = 0, nil },
		"other name":       func(m *Machine) { m.accounts["$G"]["ORDERS"].Name = "X" },
		"other account":    func(m *Machine) { m.accounts["$G"]["ORDERS"].consumers["C"].Account = "X" },
		"overlap": func(m *Machine) {
			s := *m.accounts["$G"]["ORDERS"]
			config := s.Config.Clone()
			config.Name = "Z"
			s.Name, s.Group, s.Config, s.consumers = "Z", m.group(), &config, nil
			m.accounts["$G"]["Z"] = &s
		},
	} {
		m := apply(t, v1Entries(t))
		damage(m)
		if err := New().Restore(m.Snapshot()); !errors.Is(err, ErrCorrupt) {
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
		{Entry{Op: "x", Stream: "S"}, "op"},
	} {
		tc.entry.Account = "A"
		_, err := tc.entry.Encode()
		if !errors.Is(err, ErrInvalidEntry) || !strings.Contains(err.Error(), ": "+tc.field+":") {
			t.Errorf("%+v: %v, want %s named", tc.entry, err, tc.field)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, b := range v1Entries(f) {
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
		m := apply(t, append(v1Entries(t), again))
		if err := New().Restore(m.Snapshot()); err != nil {
			t.Fatalf("%q: %v", again, err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	entries := v1Entries(f)
	for i := range entries {
		f.Add(apply(f, entries[:i]).Snapshot())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New()
		if m.Restore(b) != nil {
			return
		}
		if err := New().Restore(m.Snapshot()); err != nil {
			t.Fatal(err)
		}
	})
}
