package stream

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/subject"
)

// bench drives a machine as its group would and keeps the log.
type bench struct {
	t   *testing.T
	m   *Machine
	a   *Admission
	log [][]byte
	now time.Time

	released uint64 // entries up to this index are not needed
}

func newBench(t *testing.T, cfg api.StreamConfig) *bench {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "S"
	}
	if cfg.MaxMsgSize == 0 {
		cfg.MaxMsgSize = -1
	}
	b := &bench{t: t, m: New(), now: time.Unix(1_000_000, 0)}
	b.apply(EncodeConfig(b.now, cfg))
	b.a = NewAdmission(b.m, func(string) bool { return false })
	return b
}

func (b *bench) apply(entry []byte) Effects {
	b.t.Helper()
	b.log = append(b.log, entry)
	fx, err := b.m.Apply(uint64(len(b.log)), entry)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.m.check(); err != nil {
		b.t.Fatal(err)
	}
	return fx
}

// publish stores one message and returns what was decided.
func (b *bench) publish(subj, data string, header ...string) (Verdict, *api.Error) {
	b.t.Helper()
	v, err := b.admit(subj, data, header...)
	if err == nil && !v.Duplicate {
		b.flush()
	}
	return v, err
}

func (b *bench) admit(subj, data string, header ...string) (Verdict, *api.Error) {
	var h []byte
	if len(header) > 0 {
		h = []byte("NATS/1.0\r\n")
		for i := 0; i < len(header); i += 2 {
			h = fmt.Appendf(h, "%s: %s\r\n", header[i], header[i+1])
		}
		h = append(h, "\r\n"...)
	}
	return b.a.Admit(b.now, Publish{Subject: []byte(subj), Header: h, Data: []byte(data)})
}

func (b *bench) flush() Effects {
	b.t.Helper()
	fx := b.apply(b.a.Take())
	b.a.Applied()
	return fx
}

// read returns the message seq as a reader of the journal would.
func (b *bench) read(seq uint64) (Message, error) {
	p, ok, err := b.m.Place(seq)
	if err != nil || !ok {
		return Message{}, errors.Join(errors.New("not stored"), err)
	}
	return DecodeMessage(slices.Clone(b.log[p.Index-1][p.Off:p.Off+p.Len]), seq)
}

// checkpoint appends a checkpoint and notes which entries are not needed after it.
func (b *bench) checkpoint() {
	b.t.Helper()
	entry, ok, err := b.m.Checkpoint(b.now)
	if err != nil || !ok {
		b.t.Fatal("no checkpoint", err)
	}
	b.apply(entry)
	b.released = uint64(len(b.log)) - 1
	if index, ok, err := b.m.Needed(b.now); err != nil {
		b.t.Fatal(err)
	} else if ok {
		b.released = index - 1
	}
}

func (b *bench) live() []uint64 {
	return collect(b.t, b.m, 0, NewFilter())
}

// collect returns the live messages from from on that f matches.
func collect(t *testing.T, m *Machine, from uint64, f *Filter) []uint64 {
	t.Helper()
	var seqs []uint64
	for {
		seq, ok, err := m.Next(from, f)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return seqs
		}
		seqs = append(seqs, seq)
		from = seq + 1
	}
}

func TestMachineStoresAndReadsBack(t *testing.T) {
	b := newBench(t, api.StreamConfig{})
	b.publish("a.b", "one")
	b.publish("a.c", "two", "K", "V")
	m, err := b.read(2)
	if err != nil || string(m.Subject) != "a.c" || string(m.Data) != "two" ||
		string(m.Header) != "NATS/1.0\r\nK: V\r\n\r\n" || !m.Time.Equal(b.now) {
		t.Errorf("read %+v %v", m, err)
	}
	if m, err := b.read(1); err != nil || m.Header != nil || string(m.Data) != "one" {
		t.Errorf("read %+v %v", m, err)
	}
}

func TestMachineDetectsEveryFlippedBit(t *testing.T) {
	b := newBench(t, api.StreamConfig{})
	b.publish("a", "payload", "K", "V")
	p, _, _ := b.m.Place(1)
	rec := slices.Clone(b.log[p.Index-1][p.Off : p.Off+p.Len])
	for i := range len(rec) * 8 {
		rec[i/8] ^= 1 << (i % 8)
		if _, err := DecodeMessage(rec, 1); err == nil {
			t.Fatalf("bit %d flipped: no error", i)
		}
		rec[i/8] ^= 1 << (i % 8)
	}
	if _, err := DecodeMessage(rec, 2); !errors.Is(err, ErrEntry) {
		t.Errorf("wrong sequence: %v", err)
	}
}

func TestMachineLimits(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  api.StreamConfig
		subj []string
		want []uint64
	}{
		{"max msgs", api.StreamConfig{MaxMsgs: 2}, []string{"a", "b", "c"}, []uint64{2, 3}},
		{"max bytes", api.StreamConfig{MaxBytes: 64}, []string{"a", "b", "c"}, []uint64{2, 3}},
		{"per subject", api.StreamConfig{MaxMsgsPer: 1}, []string{"a", "b", "a", "a"}, []uint64{2, 4}},
		{"first seq", api.StreamConfig{FirstSeq: 100}, []string{"a"}, []uint64{100}},
	} {
		b := newBench(t, tt.cfg)
		for _, s := range tt.subj {
			b.publish(s, "x")
		}
		if got := b.live(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestAdmissionRefuses(t *testing.T) {
	discardNew := api.StreamConfig{Discard: api.DiscardNew}
	perSubject := discardNew
	perSubject.MaxMsgsPer, perSubject.DiscardNewPer = 1, true
	maxMsgs := discardNew
	maxMsgs.MaxMsgs = 1
	for _, tt := range []struct {
		name string
		cfg  api.StreamConfig
		hdr  []string
		want *api.Error
	}{
		{"discard new", maxMsgs, nil, api.ErrStreamStoreFailedF("maximum messages exceeded")},
		{"discard new per subject", perSubject, nil, api.ErrStreamStoreFailedF("maximum messages per subject exceeded")},
		{"sealed", api.StreamConfig{Sealed: true}, nil, api.ErrStreamSealed},
		{"size", api.StreamConfig{MaxMsgSize: 3}, nil, api.ErrStreamMessageExceedsMaximum},
		{"stream", api.StreamConfig{}, []string{HeaderExpectedStream, "T"}, api.ErrStreamNotMatch},
		{"last seq", api.StreamConfig{}, []string{HeaderExpectedLastSeq, "7"}, api.ErrStreamWrongLastSequenceF(1)},
		{"last seq text", api.StreamConfig{}, []string{HeaderExpectedLastSeq, "x"}, api.ErrStreamWrongLastSequenceF(1)},
		{"subject seq", api.StreamConfig{}, []string{HeaderExpectedSubjectSeq, "0"}, api.ErrStreamWrongLastSequenceF(1)},
		{"other subject seq", api.StreamConfig{}, []string{HeaderExpectedSubjectSeq, "3", HeaderExpectedSubject, "b"}, api.ErrStreamWrongLastSequenceF(0)},
		{"subject alone", api.StreamConfig{}, []string{HeaderExpectedSubject, "b"}, api.ErrStreamExpectedLastSeqPerSubjectInvalid},
		{"last id", api.StreamConfig{}, []string{HeaderExpectedLastMsgID, "z"}, api.ErrStreamWrongLastMsgIDF("")},
		{"rollup", api.StreamConfig{}, []string{HeaderRollup, "sub"}, api.ErrStreamRollupFailedF("rollup not permitted")},
		{"rollup value", api.StreamConfig{AllowRollup: true}, []string{HeaderRollup, "x"}, api.ErrStreamRollupFailedF(`rollup value invalid: "x"`)},
		{"ttl", api.StreamConfig{}, []string{HeaderTTL, "5s"}, api.ErrMessageTTLDisabled},
		{"increment", api.StreamConfig{}, []string{HeaderIncrement, "+1"}, api.ErrMessageIncrDisabled},
		{"schedule", api.StreamConfig{}, []string{HeaderSchedule, "@every 1s"}, api.ErrMessageSchedulesDisabled},
		{"atomic batch", api.StreamConfig{}, []string{HeaderBatchID, "b", HeaderExpectedStream, "T"}, api.ErrAtomicPublishDisabled},
	} {
		for _, inFlight := range []bool{false, true} { // the same against what is not applied yet
			b := newBench(t, tt.cfg)
			if tt.cfg.MaxMsgSize == 0 && !tt.cfg.Sealed {
				if _, err := b.admit("a", "first"); err != nil {
					t.Fatal(tt.name, err)
				}
				if !inFlight {
					b.flush()
				}
			}
			if _, err := b.admit("a", "data", tt.hdr...); !reflect.DeepEqual(err, tt.want) {
				t.Errorf("%s (in flight %v): %v, want %v", tt.name, inFlight, err, tt.want)
			}
		}
	}
}

func TestAdmissionDuplicates(t *testing.T) {
	b := newBench(t, api.StreamConfig{Duplicates: time.Minute})
	id := []string{HeaderMsgID, "id-1"}
	if v, err := b.admit("a", "1", id...); err != nil || v != (Verdict{Seq: 1}) {
		t.Fatal(v, err)
	}
	if v, _ := b.admit("a", "2", id...); v != (Verdict{Seq: 1, Duplicate: true}) {
		t.Errorf("in flight: %v", v)
	}
	b.flush()
	if v, _ := b.admit("a", "2", id...); v != (Verdict{Seq: 1, Duplicate: true}) {
		t.Errorf("stored: %v", v)
	}
	b.now = b.now.Add(time.Minute)
	if v, _ := b.admit("a", "2", id...); v != (Verdict{Seq: 2}) {
		t.Errorf("after the window: %v", v)
	}
	if v, err := b.admit("a", "3", HeaderExpectedLastMsgID, "id-1"); err != nil || v.Seq != 3 {
		t.Errorf("expected last id: %v %v", v, err)
	}
}

func TestAdmissionRetractsRefusedBatch(t *testing.T) {
	b := newBench(t, api.StreamConfig{Duplicates: time.Minute})
	b.admit("a", "1", HeaderMsgID, "x")
	first := b.a.Take()
	b.admit("a", "2", HeaderMsgID, "y")
	b.a.Take()
	b.admit("a", "3")
	b.a.Retract()
	b.apply(first)
	b.a.Applied()
	if v, err := b.publish("a", "2", HeaderMsgID, "y", HeaderExpectedSubjectSeq, "1"); err != nil || v != (Verdict{Seq: 2}) {
		t.Errorf("after retraction: %v %v", v, err)
	}
	if b.a.Pending() != 0 {
		t.Errorf("%d bytes pending", b.a.Pending())
	}
}

func TestMachineRollup(t *testing.T) {
	b := newBench(t, api.StreamConfig{AllowRollup: true})
	for _, s := range []string{"a", "b", "a"} {
		b.publish(s, "x")
	}
	b.publish("a", "x", HeaderRollup, "sub")
	if got := b.live(); !slices.Equal(got, []uint64{2, 4}) {
		t.Errorf("sub: %v", got)
	}
	b.publish("b", "x", HeaderRollup, "ALL")
	if got := b.live(); !slices.Equal(got, []uint64{5}) {
		t.Errorf("all: %v", got)
	}
}

func TestMachineNoInterestTakesASequence(t *testing.T) {
	b := newBench(t, api.StreamConfig{Retention: api.InterestPolicy})
	if v, err := b.publish("a", "x"); err != nil || v.Seq != 1 {
		t.Fatal(v, err)
	}
	if first, last := b.m.Bounds(); first != 2 || last != 1 {
		t.Errorf("bounds %d %d", first, last)
	}
}

func TestMachineRefusesEntriesThatDoNotFollow(t *testing.T) {
	b := newBench(t, api.StreamConfig{})
	b.admit("a", "1")
	entry := b.a.Take()
	b.apply(entry)
	if _, err := b.m.Apply(9, entry); !errors.Is(err, ErrEntry) {
		t.Errorf("same entry again: %v", err)
	}
	if _, err := New().Apply(1, EncodePurge(b.now, Purge{})); !errors.Is(err, ErrEntry) {
		t.Errorf("no configuration: %v", err)
	}
	for n := range entry {
		m := New()
		m.Apply(1, b.log[0])
		if _, err := m.Apply(2, entry[:n]); err == nil {
			t.Fatalf("cut at %d: no error", n)
		}
	}
}

// model is the obvious implementation of what a machine must do.
type model struct {
	cfg  api.StreamConfig
	last uint64
	msgs []modelMsg
}

type modelMsg struct {
	seq  uint64
	subj string
	time time.Time
	size uint64
}

func (m *model) drop(pred func(modelMsg) bool) { m.msgs = slices.DeleteFunc(m.msgs, pred) }

func (m *model) limit() {
	bytes := func() (n uint64) {
		for _, x := range m.msgs {
			n += x.size
		}
		return n
	}
	if n := m.cfg.MaxMsgsPer; n > 0 {
		seen := map[string]int64{}
		for i := len(m.msgs) - 1; i >= 0; i-- {
			if seen[m.msgs[i].subj]++; seen[m.msgs[i].subj] > n {
				m.msgs = slices.Delete(m.msgs, i, i+1)
			}
		}
	}
	for m.cfg.MaxMsgs > 0 && int64(len(m.msgs)) > m.cfg.MaxMsgs {
		m.msgs = m.msgs[1:]
	}
	for m.cfg.MaxBytes > 0 && bytes() > uint64(m.cfg.MaxBytes) {
		m.msgs = m.msgs[1:]
	}
}

// TestMachineAgainstModel runs random entries through a machine and the model and compares every
// query; then it replays the log and compares again.
func TestMachineAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		cfg := api.StreamConfig{Name: "S", MaxMsgSize: -1, AllowRollup: true, Duplicates: time.Minute}
		if rnd.IntN(2) == 0 {
			cfg.MaxMsgsPer = int64(rnd.IntN(4))
		}
		if rnd.IntN(3) == 0 {
			cfg.MaxMsgs = int64(rnd.IntN(700))
		}
		if rnd.IntN(3) == 0 {
			cfg.MaxBytes = int64(rnd.IntN(20000))
		}
		if rnd.IntN(2) == 0 {
			cfg.Storage = api.MemoryStorage
		}
		b := newBench(t, cfg)
		mod := &model{cfg: cfg}
		subjects := []string{"a.1", "a.2", "b.1.x", "b.2.x", "c", "d.e.f.g"}
		if rnd.IntN(4) == 0 {
			for i := range 3000 {
				subjects = append(subjects, fmt.Sprint("many.", i))
			}
		}
		pick := func() string { return subjects[rnd.IntN(len(subjects))] }
		for range 150 {
			b.now = b.now.Add(time.Duration(rnd.IntN(1000)) * time.Millisecond)
			switch rnd.IntN(12) {
			case 0:
				p := Purge{Filter: []string{"", "a.*", "b.>", "c"}[rnd.IntN(4)]}
				switch rnd.IntN(4) {
				case 0:
					p.Keep = uint64(rnd.IntN(5) + 1)
				case 1:
					p.Seq = max(1, mod.last-min(mod.last, uint64(rnd.IntN(50))))
				}
				b.apply(EncodePurge(b.now, p))
				var match []modelMsg
				for _, x := range mod.msgs {
					if (p.Filter == "" || subject.Match(p.Filter, x.subj)) && (p.Seq == 0 || x.seq < p.Seq) {
						match = append(match, x)
					}
				}
				if p.Keep > 0 {
					match = match[:max(0, len(match)-int(p.Keep))]
				}
				mod.drop(func(x modelMsg) bool { return slices.Contains(match, x) })
			case 2:
				b.checkpoint()
			case 1:
				r := Remove{}
				for range rnd.IntN(20) {
					r.Seqs = append(r.Seqs, uint64(rnd.IntN(int(mod.last)+2)))
				}
				b.apply(EncodeRemove(b.now, r))
				mod.drop(func(x modelMsg) bool { return slices.Contains(r.Seqs, x.seq) })
			default:
				var took []modelMsg
				for range rnd.IntN(60) + 1 {
					s := pick()
					data := make([]byte, rnd.IntN(40))
					var hdr []string
					if rnd.IntN(20) == 0 {
						hdr = []string{HeaderRollup, "sub"}
					}
					v, err := b.admit(s, string(data), hdr...)
					if err != nil {
						if cfg.MaxBytes > 0 {
							continue // larger than the whole stream may be
						}
						t.Fatal(err)
					}
					h := 0
					if hdr != nil {
						h = len("NATS/1.0\r\nNats-Rollup: sub\r\n\r\n")
					}
					took = append(took, modelMsg{v.Seq, s, b.now, accounted(cfg.Storage, len(s)+len(data)+h, h > 0)})
					if hdr != nil {
						took[len(took)-1].time = b.now.Add(1) // marks the rollup for below
					}
				}
				if len(took) == 0 {
					continue
				}
				b.flush()
				for _, x := range took {
					rollup := x.time.After(b.now)
					x.time = b.now
					mod.last = x.seq
					if rollup {
						mod.drop(func(o modelMsg) bool { return o.subj == x.subj })
					}
					mod.msgs = append(mod.msgs, x)
					mod.limit()
				}
			}
			compare(t, rnd, b.m, mod)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		replay := New()
		for i, e := range b.log {
			if _, err := replay.Apply(uint64(i+1), e); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := dump(replay), dump(b.m); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: replay differs: %s", seed, difference(got, want))
		}
		if b.released == 0 || cfg.Storage == api.MemoryStorage {
			continue // memory streams are not replayed
		}
		replay = New()
		for i := b.released; i < uint64(len(b.log)); i++ {
			if _, err := replay.Apply(i+1, b.log[i]); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if got, want := dump(replay), dump(b.m); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: replay from entry %d differs: %s", seed, b.released+1, difference(got, want))
		}
	}
}

func compare(t *testing.T, rnd *rand.Rand, m *Machine, mod *model) {
	t.Helper()
	if n, _ := m.Usage(); n != uint64(len(mod.msgs)) {
		t.Errorf("%d messages, want %d", n, len(mod.msgs))
		return
	}
	from := uint64(rnd.IntN(int(mod.last) + 3))
	filters := [][]string{nil, {"a.*"}, {"c"}, {"b.>", "a.1"}, {"*.*.x", "b.1.*"}, {"none"}}[rnd.IntN(6)]
	f := NewFilter(filters...)
	var want []uint64
	last := map[string]uint64{}
	upTo := mod.last - min(mod.last, uint64(rnd.IntN(30)))
	for _, x := range mod.msgs {
		if f.Matches(x.subj) {
			if x.seq >= from {
				want = append(want, x.seq)
			}
			if x.seq <= upTo {
				last[x.subj] = x.seq
			}
		}
	}
	if got := collect(t, m, from, f); !slices.Equal(got, want) {
		t.Errorf("from %d %v: %v, want %v", from, filters, got, want)
	}
	if n, err := m.Pending(from, f); err != nil || n != uint64(len(want)) {
		t.Errorf("pending from %d %v: %d, want %d", from, filters, n, len(want))
	}
	var lasts []uint64
	for _, seq := range last {
		lasts = append(lasts, seq)
	}
	slices.Sort(lasts)
	if got, err := m.LastPerSubject(f, upTo); err != nil || !slices.Equal(got, lasts) {
		t.Errorf("last per subject %v up to %d: %v, want %v", filters, upTo, got, lasts)
	}
	if len(mod.msgs) > 0 {
		x := mod.msgs[rnd.IntN(len(mod.msgs))]
		i := slices.IndexFunc(mod.msgs, func(o modelMsg) bool { return !o.time.Before(x.time) })
		if got, err := m.TimeToSeq(x.time); err != nil || got != mod.msgs[i].seq {
			t.Errorf("time to seq: %d, want %d", got, mod.msgs[i].seq)
		}
		if s, ok, err := m.SubjectOf(x.seq); err != nil || !ok || s != x.subj {
			t.Errorf("subject of %d: %q, want %q", x.seq, s, x.subj)
		}
	}
	if got, err := m.TimeToSeq(time.Unix(2_000_000_000, 0)); err != nil || got != mod.last+1 {
		t.Errorf("time after the end: %d, want %d", got, mod.last+1)
	}
}

// dump returns all state that replicas must agree on.
func dump(m *Machine) []byte {
	state, err := m.State(true)
	b := fmt.Appendf(nil, "%+v %v %+v\n", state, err, m.Config())
	for seq := m.first; seq <= m.last; seq++ {
		if x, ok, _ := m.ix.Get(seq); ok {
			b = fmt.Appendf(b, "%d %v %s %d\n", seq, place(x), m.ix.Name(x.Subject), x.Time)
		}
	}
	m.dedupe.each(func(o *messageID) bool {
		b = fmt.Appendf(b, "%s %d\n", o.id, o.time)
		return true
	})
	return b
}

// difference returns the first line in which two dumps differ.
func difference(got, want []byte) string {
	a, b := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] + "\nwant: " + b[i]
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(a), len(b))
}

func FuzzApply(f *testing.F) {
	m := New()
	now := time.Unix(1, 0)
	cfg := EncodeConfig(now, api.StreamConfig{Name: "S", MaxMsgSize: -1, MaxMsgs: 10})
	m.Apply(1, cfg)
	a := NewAdmission(m, nil)
	a.Admit(now, Publish{Subject: []byte("a.b"), Data: []byte("x"), Header: []byte("NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n")})
	f.Add(a.Take())
	f.Add(EncodePurge(now, Purge{Keep: 1}))
	f.Add(EncodeRemove(now, Remove{Seqs: []uint64{1, 2}, Upto: 1}))
	f.Add(cfg)
	f.Fuzz(func(t *testing.T, entry []byte) {
		m := New()
		if _, err := m.Apply(1, cfg); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(3) {
			m.Apply(i+2, entry)
			if m.Config().Storage == api.FileStorage && len(entry) < 1<<16 {
				if err := m.check(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func BenchmarkAdmitApply(b *testing.B) {
	m := New()
	m.Apply(1, EncodeConfig(time.Now(), api.StreamConfig{Name: "S", MaxMsgSize: -1}))
	a := NewAdmission(m, nil)
	p := Publish{Subject: []byte("orders.new"), Data: make([]byte, 128)}
	b.SetBytes(128)
	b.ReportAllocs()
	index := uint64(1)
	for i := 0; b.Loop(); i++ {
		if _, err := a.Admit(time.Now(), p); err != nil {
			b.Fatal(err)
		}
		if i%100 == 99 {
			index++
			if _, err := m.Apply(index, a.Take()); err != nil {
				b.Fatal(err)
			}
			a.Applied()
		}
	}
}

// BenchmarkApplyKeys overwrites the keys of a bucket, in entries of 100.
func BenchmarkApplyKeys(b *testing.B) {
	for _, keys := range []int{1000, 200_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			m := New()
			m.Apply(1, EncodeConfig(time.Now(), api.StreamConfig{Name: "S", MaxMsgSize: -1, MaxMsgsPer: 1}))
			a := NewAdmission(m, nil)
			rnd := rand.New(rand.NewPCG(1, 1))
			var subj []byte
			p := Publish{Data: make([]byte, 128)}
			index := uint64(1)
			put := func(i, key int) {
				subj = fmt.Appendf(subj[:0], "$KV.bucket.key.%d", key)
				p.Subject = subj
				if _, err := a.Admit(time.Now(), p); err != nil {
					b.Fatal(err)
				}
				if i%100 == 99 {
					index++
					if _, err := m.Apply(index, a.Take()); err != nil {
						b.Fatal(err)
					}
					a.Applied()
				}
			}
			for i := range keys {
				put(i, i)
			}
			for i := 0; b.Loop(); i++ {
				put(i, rnd.IntN(keys))
			}
		})
	}
}

// A purge with keep leaves more in a log without its head than it left then; the checkpoint tells.
func TestMachineReplaysPurgesBeforeACheckpoint(t *testing.T) {
	b := newBench(t, api.StreamConfig{MaxMsgsPer: 1})
	b.publish("first", "x")
	for range 5 {
		b.publish("a", "x")
		b.publish("b", "x")
	}
	b.apply(EncodePurge(b.now, Purge{Keep: 2}))
	b.apply(EncodePurge(b.now, Purge{Filter: "a", Keep: 1}))
	b.checkpoint()
	b.publish("c", "x")
	replay := New()
	for i := b.released; i < uint64(len(b.log)); i++ {
		if _, err := replay.Apply(i+1, b.log[i]); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := dump(replay), dump(b.m); !bytes.Equal(got, want) {
		t.Error(difference(got, want))
	}
}

// More ids than a checkpoint lists are read from the log again.
func TestMachineCheckpointsManyIDs(t *testing.T) {
	b := newBench(t, api.StreamConfig{Duplicates: time.Minute, MaxMsgs: 1})
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			if _, err := b.admit("a", "x", HeaderMsgID, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			if i%100 == 99 {
				b.log = append(b.log, b.a.Take())
				if _, err := b.m.Apply(uint64(len(b.log)), b.log[len(b.log)-1]); err != nil {
					t.Fatal(err)
				}
				b.a.Applied()
			}
		}
	}
	publish(0, 1000)
	b.now = b.now.Add(time.Hour)
	publish(1000, 1000+maxIDs+1000)
	b.checkpoint()
	if b.released < 10 || b.released > 20 {
		t.Errorf("released to entry %d, the window begins with 12", b.released)
	}
	replay := New()
	for i := b.released; i < uint64(len(b.log)); i++ {
		if _, err := replay.Apply(i+1, b.log[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		id   string
		want bool
	}{{"5", false}, {"1000", true}, {fmt.Sprint(maxIDs), true}} {
		if _, ok := replay.dedupe.find([]byte(tt.id), b.now.UnixNano()); ok != tt.want {
			t.Errorf("id %s is known: %v", tt.id, ok)
		}
	}
}
