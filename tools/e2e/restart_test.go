package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestRestartKeepsState compares a stream and its consumer before and after a clean stop and after
// a kill: limits, deletions, what is acknowledged and what is not.
func TestRestartKeepsState(t *testing.T) {
	s := startServer(t)
	nc, js := s.jetstream()
	ctx := t.Context()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "S", Subjects: []string{"s.*"}, MaxMsgsPerSubject: 3, Description: "kept", Metadata: map[string]string{"k": "v"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if _, err := js.Publish(ctx, fmt.Sprintf("s.%d", i%4), fmt.Appendf(nil, "m%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.DeleteMsg(ctx, 15); err != nil {
		t.Fatal(err)
	}
	cons, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "D", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute, FilterSubject: "s.*",
	})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.Fetch(5, jetstream.FetchMaxWait(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var unacked []uint64
	n := 0
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 || n == 4 {
			unacked = append(unacked, meta.Sequence.Stream)
			continue
		}
		if err := m.DoubleAck(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n != 5 {
		t.Fatalf("fetched %d, want 5", n)
	}
	before := describe(t, ctx, js)
	for _, restart := range []func(){s.stop, s.kill} {
		restart()
		s.start()
		waitFor(t, startTimeout, "reconnect", nc.IsConnected)
		if after := describe(t, ctx, js); after != before {
			t.Errorf("after a restart\n%s\nwant\n%s", after, before)
		}
	}
	// What was not acknowledged comes again, nothing else does. Nak makes it come at once.
	cons, err = js.Consumer(ctx, "S", "D")
	if err != nil {
		t.Fatal(err)
	}
	info := cons.CachedInfo()
	if info.NumAckPending != len(unacked) {
		t.Errorf("%d wait for an ack, want %d", info.NumAckPending, len(unacked))
	}
	var rest []uint64
	for range info.NumPending {
		m, err := cons.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		rest = append(rest, meta.Sequence.Stream)
	}
	for _, seq := range unacked {
		if slices.Contains(rest, seq) {
			t.Errorf("%d was delivered again before its ack wait ended", seq)
		}
	}
}

// describe returns what of stream S and consumer D must survive a restart.
func describe(t *testing.T, ctx context.Context, js jetstream.JetStream) string {
	t.Helper()
	stream, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(">"), jetstream.WithDeletedDetails(true))
	if err != nil {
		t.Fatal(err)
	}
	cons, err := js.Consumer(ctx, "S", "D")
	if err != nil {
		t.Fatal(err)
	}
	ci := cons.CachedInfo()
	st := info.State
	text := fmt.Sprintf("%s %v created %s, %d messages, %d bytes, %d..%d, deleted %v, subjects %v\n",
		info.Config.Description, info.Config.Metadata["k"], info.Created.UTC(), st.Msgs, st.Bytes, st.FirstSeq, st.LastSeq,
		st.Deleted, st.Subjects)
	text += fmt.Sprintf("consumer delivered %d/%d, floor %d/%d, pending %d, ack pending %d\n",
		ci.Delivered.Consumer, ci.Delivered.Stream, ci.AckFloor.Consumer, ci.AckFloor.Stream, ci.NumPending, ci.NumAckPending)
	for seq := st.FirstSeq; seq <= st.LastSeq; seq++ {
		if m, err := stream.GetMsg(ctx, seq); err == nil {
			text += fmt.Sprintf("%d %s %s %s\n", seq, m.Subject, m.Data, m.Time.UTC())
		}
	}
	return text
}

// TestRestartDropsMemoryStreams holds that a memory stream comes back empty or not at all, and that
// the name can be used.
func TestRestartDropsMemoryStreams(t *testing.T) {
	s := startServer(t)
	nc, js := s.jetstream()
	ctx := t.Context()
	cfg := jetstream.StreamConfig{Name: "M", Subjects: []string{"m"}, Storage: jetstream.MemoryStorage}
	if _, err := js.CreateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "m", []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.start()
	waitFor(t, startTimeout, "reconnect", nc.IsConnected)
	stream, err := js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 0 {
		t.Errorf("%d messages in a memory stream after a restart", n)
	}
}

// TestLameDuck sends SIGUSR2: clients are told, moved away, and the process ends.
func TestLameDuck(t *testing.T) {
	s := startServer(t, `lame_duck_duration: "30s", lame_duck_grace_period: "200ms"`)
	var told atomic.Bool
	nc := s.connect(nats.LameDuckModeHandler(func(*nats.Conn) { told.Store(true) }), nats.NoReconnect())
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	code := s.signal(syscall.SIGUSR2)
	waitFor(t, startTimeout, "closed connection", nc.IsClosed)
	if !told.Load() {
		t.Error("the client was not told")
	}
	if code != 0 && isMillraced() {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestSecondServerOnTheSameStore is refused: two writers would destroy each other's data.
func TestSecondServerOnTheSameStore(t *testing.T) {
	needMillraced(t)
	first := startServer(t)
	second := newServer(t)
	second.port = freePort(t)
	second.writeConf(fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream { store_dir: %q }", second.port, first.store()))
	out, code := second.runToEnd()
	if code != 1 {
		t.Errorf("exit code %d, want 1:\n%s", code, out)
	}
	if !first.Greets() {
		t.Error("the first server is gone")
	}
}
