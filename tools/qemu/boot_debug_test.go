//go:build qemu

package qemu

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"millrace/board"
	"millrace/image"
)

// The debug variant has a shell on the serial console; the production image hears nothing there.
func TestDebugImageHasAShell(t *testing.T) {
	ctx := testContext(t)
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	debug, err := image.Build(ctx, image.Config{
		Board: board.All()[0], Source: filepath.Join("..", ".."), Output: filepath.Join(t.TempDir(), "debug.img"),
		CacheDir: filepath.Join(cache, "millrace", "debs"), Version: "1.0", Debug: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range []string{debug.Image, testImage(t)} {
		c := testConfig(t, "")
		c.Image = img
		// A pipe of the system: the emulator reads it itself, and nobody waits for its end.
		keys, typed, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer keys.Close()
		defer typed.Close()
		c.Input = keys
		v := bootBox(ctx, t, c)
		if _, err := fmt.Fprintf(typed, "echo shell $((6*7)); ls /init\n"); err != nil {
			t.Fatal(err)
		}
		if img == debug.Image {
			wantConsole(ctx, t, v, "starting, image 1.0-debug")
			wantConsole(ctx, t, v, "WARNING: this is a debug image: who reaches the console has a shell")
			wantConsole(ctx, t, v, "shell 42\r\n/init")
		}
		powerDown(ctx, t, v)
		if img != debug.Image && (strings.Contains(v.Console(), "shell 42") || strings.Contains(v.Console(), "debug image")) {
			t.Errorf("a production image answers on the console:\n%s", v.Console())
		}
	}
}
