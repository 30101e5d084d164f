//go:build qemu

package qemu

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/board"
	"millrace/image"
)

// The image of every board starts through the firmware, keeps what is published and powers off. make deps-arm64
// installs the emulator and firmware of those for arm64.
func TestBoardsServe(t *testing.T) {
	long(t)
	for _, b := range board.All() {
		t.Run(b.Name, func(t *testing.T) {
			ctx := testContext(t)
			if _, err := exec.LookPath(b.QEMU.Binary); err != nil {
				t.Fatalf("%v: make deps-arm64 installs it", err)
			}
			if _, err := os.Stat(b.QEMU.NVRAM); err != nil {
				t.Fatalf("%v: make deps-arm64 installs it", err)
			}
			cache, err := os.UserCacheDir()
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "board.img")
			if _, err := image.Build(ctx, image.Config{
				Board: b, Source: filepath.Join("..", ".."), Output: out, Version: "1.0.0", CacheDir: filepath.Join(cache, "millrace", "debs"),
				Logger: slog.New(slog.DiscardHandler),
			}); err != nil {
				t.Fatal(err)
			}
			c := testConfig(t, filepath.Join(t.TempDir(), "data.img"))
			c.Board, c.Image, c.Direct = b, out, false
			began := time.Now()
			v := bootBox(ctx, t, c)
			_, js := connect(t, v)
			if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
				t.Fatal(err)
			}
			if ack, err := js.Publish(ctx, "s", []byte("x")); err != nil || ack.Sequence != 1 {
				t.Fatalf("%+v, %v", ack, err)
			}
			t.Logf("first acknowledged publish after %.1f s", time.Since(began).Seconds())
			wantConsole(ctx, t, v, "storage, alone, ok")
			powerDown(ctx, t, v)
		})
	}
}
