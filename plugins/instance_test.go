package plugins_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/plugins"
	"millrace/plugins/pluginstest"
)

func open(tb testing.TB, config plugins.Config) *plugins.Runtime {
	tb.Helper()
	rt, err := plugins.Open(config)
	if err != nil {
		tb.Fatal(err)
	}
	return rt
}

func compile(tb testing.TB, wasm []byte) *plugins.Module {
	tb.Helper()
	m, err := open(tb, plugins.Config{}).Compile(tb.Context(), wasm)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := m.Close(); err != nil {
			tb.Error(err)
		}
	})
	return m
}

func start(tb testing.TB, m *plugins.Module, config plugins.InstanceConfig) *plugins.Instance {
	tb.Helper()
	in, err := m.Instantiate(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(in.Close)
	return in
}

func messages(data ...string) []plugins.Message {
	var batch []plugins.Message
	for i, d := range data {
		batch = append(batch, plugins.Message{Seq: uint64(17 + i), ConsumerSeq: uint64(1 + i), Delivered: 1,
			Time: time.Unix(1700000000, 0), Subject: "orders.new", Data: []byte(d)})
	}
	return batch
}

// fakeKV is a KV in memory: bucket, then key.
type fakeKV map[string]map[string]plugins.Entry

func (kv fakeKV) Get(_ context.Context, bucket, key string) (plugins.Entry, error) {
	b, ok := kv[bucket]
	if !ok {
		return plugins.Entry{}, plugins.ErrNoBucket
	}
	return b[key], nil
}

// show writes effects in one line.
func show(e *plugins.Effects) string {
	var b strings.Builder
	for _, w := range e.Writes {
		fmt.Fprintf(&b, "write %s/%s=%s@%d ", w.Bucket, w.Key, w.Value, w.Expect)
	}
	for _, p := range e.Publications {
		fmt.Fprintf(&b, "%d:%s=%s ", p.Msg, p.Subject, p.Data)
	}
	for _, s := range e.Settled {
		fmt.Fprintf(&b, "%v ", s.Kind)
	}
	return strings.TrimSpace(b.String())
}

func TestInstanceUpperC(t *testing.T) {
	m := compile(t, pluginstest.Guest(t, "upper-c"))
	in := start(t, m, plugins.InstanceConfig{Grants: plugins.Grants{Publish: []string{"upper.>"}}})
	for range 3 {
		e, err := in.Run(t.Context(), messages("hello", "", "World 1"))
		if err != nil {
			t.Fatal(err)
		}
		want := "0:upper.orders.new=HELLO 1:upper.orders.new= 2:upper.orders.new=WORLD 1 ack ack ack"
		if got := show(e); got != want {
			t.Fatalf("effects %q, want %q", got, want)
		}
	}
	if in.MemoryBytes() != 64<<10 {
		t.Errorf("memory is %d bytes, want one page", in.MemoryBytes())
	}
	big := messages(strings.Repeat("x", 500<<10))
	if e, err := in.Run(t.Context(), big); err != nil || len(e.Publications[0].Data) != 500<<10 {
		t.Fatalf("large message: %v", err)
	}
}

func TestInstanceUpperGo(t *testing.T) {
	m := compile(t, pluginstest.Guest(t, "upper-go"))
	kv := fakeKV{"state": {"orders.new": {Value: []byte("40"), Revision: 9}}}
	in := start(t, m, plugins.InstanceConfig{KV: kv, Grants: plugins.Grants{
		Publish: []string{"upper.>"}, KV: map[string]plugins.Access{"state": plugins.ReadWrite}}})
	e, err := in.Run(t.Context(), messages("hello", "go"))
	if err != nil {
		t.Fatal(err)
	}
	want := "write state/orders.new=41@-1 write state/orders.new=42@-1 0:upper.orders.new=HELLO 1:upper.orders.new=GO ack ack"
	if got := show(e); got != want {
		t.Fatalf("effects %q, want %q", got, want)
	}
	// Enough garbage for the guest's collector to run many times under a clock that stands still.
	for range 2000 {
		if _, err := in.Run(t.Context(), messages(strings.Repeat("y", 20_000), "z")); err != nil {
			t.Fatal(err)
		}
	}
	if in.MemoryBytes() > 16<<20 {
		t.Errorf("memory grew to %d bytes", in.MemoryBytes())
	}
}

func TestInstanceDeniesUngrantedSubjects(t *testing.T) {
	m := compile(t, pluginstest.Guest(t, "upper-c"))
	in := start(t, m, plugins.InstanceConfig{Grants: plugins.Grants{Publish: []string{"other.>"}}})
	_, err := in.Run(t.Context(), messages("hello"))
	trap, ok := errors.AsType[*plugins.TrapError](err)
	if !ok || trap.Kind != plugins.TrapReturn || trap.Error() != "the plugin returned -2 (denied)" {
		t.Fatalf("error %v, want denied", err)
	}
}

func TestInstanceTrap(t *testing.T) {
	in := start(t, compile(t, pluginstest.Guest(t, "trap-c")), plugins.InstanceConfig{})
	_, err := in.Run(t.Context(), messages("trap"))
	if err == nil || err.Error() != "wasm error: unreachable in explode()" {
		t.Fatalf("error %q", err)
	}
	if _, err := in.Run(t.Context(), messages("fine")); !errors.Is(err, plugins.ErrClosed) {
		t.Fatalf("after a trap the instance answers %v, want ErrClosed", err)
	}
}

func TestInstanceStopsEndlessGuests(t *testing.T) {
	m := compile(t, pluginstest.Guest(t, "endless-c"))
	for _, test := range []struct {
		data, want string
		kind       plugins.TrapKind
	}{
		{"loop", "stopped after 100ms of CPU: endless loop?", plugins.TrapFuel},
		{"recurse", "stopped at 8192 nested calls: endless recursion?", plugins.TrapDepth},
	} {
		in := start(t, m, plugins.InstanceConfig{})
		began := time.Now()
		_, err := in.Run(t.Context(), messages(test.data))
		trap, ok := errors.AsType[*plugins.TrapError](err)
		if !ok || trap.Kind != test.kind || trap.Error() != test.want {
			t.Errorf("%s: error %v (%v), want %q", test.data, err, trap, test.want)
		}
		t.Logf("%s: stopped after %v", test.data, time.Since(began))
	}
	in := start(t, m, plugins.InstanceConfig{Limits: plugins.Limits{MessageCPU: time.Hour, BatchCPU: time.Hour,
		Wall: 20 * time.Millisecond}})
	_, err := in.Run(t.Context(), messages("loop"))
	if trap, ok := errors.AsType[*plugins.TrapError](err); !ok || trap.Kind != plugins.TrapWall {
		t.Errorf("error %v, want the wall-clock backstop", err)
	}
	in = start(t, m, plugins.InstanceConfig{Limits: plugins.Limits{MessageCPU: time.Hour, Wall: time.Hour}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = in.Run(ctx, messages("loop"))
	if trap, ok := errors.AsType[*plugins.TrapError](err); !ok || trap.Kind != plugins.TrapCanceled {
		t.Errorf("error %v, want canceled", err)
	}
}

// recorder is a Sink that writes down what happens.
type recorder struct {
	log      []string
	conflict int // commits that fail with ErrConflict
}

func (r *recorder) Commit(batch []plugins.Message, e *plugins.Effects) error {
	if r.conflict > 0 {
		r.conflict--
		return plugins.ErrConflict
	}
	r.log = append(r.log, fmt.Sprintf("commit %d %s", len(batch), show(e)))
	return nil
}

func (r *recorder) Fail(m *plugins.Message, err error) error {
	r.log = append(r.log, fmt.Sprintf("fail %d %v", m.Seq, err))
	return nil
}

func TestRunnerPunishesOnlyTheFailingMessage(t *testing.T) {
	r := plugins.NewRunner(compile(t, pluginstest.Guest(t, "trap-c")), plugins.InstanceConfig{})
	t.Cleanup(r.Close)
	var got recorder
	if err := r.Run(t.Context(), messages("a", "trap", "b"), &got); err != nil {
		t.Fatal(err)
	}
	want := "[commit 1 ack fail 18 wasm error: unreachable in explode() commit 1 ack]"
	if fmt.Sprint(got.log) != want {
		t.Errorf("log %v, want %s", got.log, want)
	}
	if r.Starts() != 3 {
		t.Errorf("%d instances were started, want 3", r.Starts())
	}
}

func TestRunnerRepeatsConflictingBatch(t *testing.T) {
	r := plugins.NewRunner(compile(t, pluginstest.Guest(t, "trap-c")), plugins.InstanceConfig{})
	t.Cleanup(r.Close)
	got := recorder{conflict: 2}
	if err := r.Run(t.Context(), messages("a"), &got); err != nil || len(got.log) != 1 {
		t.Errorf("log %v, error %v", got.log, err)
	}
	got = recorder{conflict: 100}
	if err := r.Run(t.Context(), messages("a"), &got); !errors.Is(err, plugins.ErrConflict) {
		t.Errorf("error %v, want ErrConflict", err)
	}
}

func BenchmarkMessage(b *testing.B) {
	for _, guest := range []string{"upper-c", "upper-go"} {
		m := compile(b, pluginstest.Guest(b, guest))
		in := start(b, m, plugins.InstanceConfig{Grants: plugins.Grants{Publish: []string{"upper.>"}}})
		for _, size := range []int{100, 1024} {
			for _, count := range []int{1, 256} {
				batch := messages(strings.Split(strings.Repeat(strings.Repeat("m", size)+",", count), ",")[:count]...)
				b.Run(fmt.Sprintf("%s/%dB/batch%d", guest, size, count), func(b *testing.B) {
					b.ReportAllocs()
					b.SetBytes(int64(size))
					for n := 0; n < b.N; n += count {
						if _, err := in.Run(b.Context(), batch); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
