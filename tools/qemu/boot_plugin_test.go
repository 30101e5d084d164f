//go:build qemu

package qemu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// testPlugin is the example in C that "make plugins" builds; it publishes what it gets in upper case.
func testPlugin(t *testing.T) string {
	t.Helper()
	file, err := filepath.Abs(filepath.Join("..", "..", ".build", "plugins", "upper-c.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("no plugin (make plugins): %v", err)
	}
	return file
}

// A plugin is uploaded to a box with the operator command, works there, and goes on after a power cut
// with what was published meanwhile and after.
func TestBoxRunsPlugin(t *testing.T) {
	ctx := testContext(t)
	millrace := buildMillrace(ctx, t)
	c := testConfig(t, filepath.Join(t.TempDir(), "data.img"))
	v := bootBox(ctx, t, c)
	_, js := connect(t, v)
	for _, cfg := range []jetstream.StreamConfig{
		{Name: "ORDERS", Subjects: []string{"orders.>"}}, {Name: "UPPER", Subjects: []string{"upper.>"}},
	} {
		if _, err := js.CreateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"plugin", "push", testPlugin(t), "--name", "upper"},
		{"plugin", "bind", "upper", "--stream", "ORDERS", "--publish", "upper.>"},
	} {
		cmd := exec.CommandContext(ctx, millrace, args...)
		cmd.Env = append(os.Environ(), "NATS_URL=nats://"+v.Addr(natsPort))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("millrace %v: %v\n%s", args, err, out)
		}
	}
	publishAndExpect(ctx, t, js, 1, "first", "FIRST")
	v.Kill()

	v = bootBox(ctx, t, c)
	_, js = connect(t, v)
	publishAndExpect(ctx, t, js, 2, "second", "SECOND")
	powerDown(ctx, t, v)
}

// publishAndExpect publishes an order and waits until the plugin's answer is message seq of UPPER.
func publishAndExpect(ctx context.Context, t *testing.T, js jetstream.JetStream, seq uint64, text, want string) {
	t.Helper()
	if _, err := js.Publish(ctx, "orders.new", []byte(text)); err != nil {
		t.Fatal(err)
	}
	answers, err := js.OrderedConsumer(ctx, "UPPER", jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: seq,
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := answers.Next(jetstream.FetchMaxWait(lineTimeout))
	if err != nil {
		t.Fatalf("no answer to %q: %v", text, err)
	}
	meta, err := m.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	if string(m.Data()) != want || meta.Sequence.Stream != seq {
		t.Errorf("message %d of UPPER is %q, want message %d with %q", meta.Sequence.Stream, m.Data(), seq, want)
	}
}
