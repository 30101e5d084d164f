//go:build qemu

package qemu

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/board"
	"millrace/image"
	"millrace/image/layout"
	"millrace/image/signature"
	"millrace/tools/qemu/vm"
)

// adminConfig lets the test administer the box.
const adminConfig = `
accounts { SYS { users: [ { user: admin, password: secret } ] }, A { users: [ { user: me, password: secret } ], jetstream: enabled } }
system_account: SYS
appliance { ntp: off %s }
`

// ownDisk makes a copy of an image that the machine may write to, with a configuration and room for the
// state.
func ownDisk(t *testing.T, c *vm.Config, conf string, size int64) {
	t.Helper()
	c.Image = imageWithConfig(t, c.Image, conf)
	c.SystemDisk = c.Image
	grow(t, c.SystemDisk, size)
}

func grow(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// consoleValue returns what follows a text on the console, up to the end of the word.
func consoleValue(ctx context.Context, t *testing.T, v *vm.VM, after string) string {
	t.Helper()
	rest, err := v.ConsoleLine(ctx, after)
	if err != nil {
		t.Fatal(err)
	}
	word, _, _ := strings.Cut(rest, " ")
	return strings.TrimRight(word, ",")
}

// A box makes its state at the first boot and is the same box after a power cut and on a larger disk.
// When its data disk is missing it takes no other, and goes on as a router.
func TestBoxKeepsState(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	c := testConfig(t, filepath.Join(dir, "data.img"))
	ownDisk(t, &c, fmt.Sprintf(adminConfig, ""), 1<<30)
	v := bootBox(ctx, t, c)
	for _, want := range []string{"making the state partition", "taking over the configuration", "formatting empty data disk", "storage, alone, ok"} {
		wantConsole(ctx, t, v, want)
	}
	name := consoleValue(ctx, t, v, "new identity, name ")
	v.Kill()

	grow(t, c.SystemDisk, 2<<30)
	c.DataDisk = filepath.Join(dir, "other.img")
	v = bootBox(ctx, t, c)
	for _, want := range []string{"state partition has grown", "is missing; no other is taken in its place", "this box is a router", name + ", "} {
		wantConsole(ctx, t, v, want)
	}
	for _, never := range []string{"new identity", "formatting", "making the state", "taking over"} {
		if strings.Contains(v.Console(), never) {
			t.Errorf("second boot: %s\n%s", never, v.Console())
		}
	}
	powerDown(ctx, t, v)

	c.DataDisk = filepath.Join(dir, "data.img")
	v = bootBox(ctx, t, c)
	for _, want := range []string{"store /data/millrace", "storage, alone, ok"} {
		wantConsole(ctx, t, v, want)
	}
	powerDown(ctx, t, v)
}

// buildVersion builds a version that nobody has signed and returns its file; daemon stands in for
// millraced, empty is the real one.
func buildVersion(ctx context.Context, t *testing.T, version, daemon string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	r, err := image.Build(ctx, image.Config{
		Board: board.All()[0], Source: filepath.Join("..", ".."), Output: filepath.Join(t.TempDir(), "v.img"),
		CacheDir: filepath.Join(cache, "millrace", "debs"), Version: version, Daemon: daemon,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.UKI
}

// signed returns a copy of a version with a signature.
func signed(t *testing.T, uki string, key ed25519.PrivateKey) string {
	t.Helper()
	b, err := os.ReadFile(uki)
	if err == nil {
		err = image.Sign(b, key)
	}
	out := filepath.Join(t.TempDir(), "signed.efi")
	if err == nil {
		err = os.WriteFile(out, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// runBoot boots through firmware and loader, as every start of an update does, until the console says
// text. A machine that stalls before that is started once more, which costs the version a try.
func runBoot(ctx context.Context, t *testing.T, c vm.Config, text string) *vm.VM {
	t.Helper()
	for again := false; ; again = true {
		v, err := vm.Start(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Kill)
		within, cancel := context.WithTimeout(ctx, 2*bootTimeout) // a version may be on trial for five minutes
		err = v.WaitConsole(within, text)
		cancel()
		if err == nil {
			return v
		}
		if again || !stalled(err) {
			t.Fatal(err)
		}
		t.Logf("stalled: %v", err)
		v.Kill()
	}
}

// stalled reports whether an emulator may be to blame for an error.
func stalled(err error) bool {
	return errors.Is(err, vm.ErrStalled) || errors.Is(err, context.DeadlineExceeded)
}

// waitEnd waits until the box has ended by itself.
func waitEnd(ctx context.Context, t *testing.T, v *vm.VM) {
	t.Helper()
	select {
	case <-v.Done():
	case <-ctx.Done():
		t.Fatalf("the box has not ended: %v; console:\n%s", ctx.Err(), v.Console())
	}
}

// A version is put on a box, started through the firmware, and is the good one once it has proven itself.
// One that does not is gone after its tries, and the box runs the version before.
func TestBoxUpdates(t *testing.T) {
	const most = 40 * time.Minute // two images, seven starts through the firmware
	ctx, cancel := context.WithTimeout(t.Context(), most)
	t.Cleanup(cancel)
	bin := filepath.Join(t.TempDir(), "millrace")
	bad := filepath.Join(t.TempDir(), "bad")
	for out, pkg := range map[string]string{bin: "../millrace", bad: "./testdata/bad"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, text)
		}
	}
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	next, worse := buildVersion(ctx, t, "1.1.0", ""), buildVersion(ctx, t, "1.2.0", bad)
	c := testConfig(t, filepath.Join(t.TempDir(), "data.img"))
	c.Direct = false
	ownDisk(t, &c, fmt.Sprintf(adminConfig, fmt.Sprintf(", hostname: box-1, update_keys: [%q]", signature.FormatKey(public))), 1<<30)

	v := bootBox(ctx, t, c)
	update := func(uki string) string {
		cmd := exec.CommandContext(ctx, bin, "node", "update", "-no-wait", "box-1", uki)
		cmd.Env = append(os.Environ(), "NATS_URL=nats://"+v.Addr(natsPort), "NATS_USER=admin", "NATS_PASSWORD=secret")
		text, err := cmd.CombinedOutput()
		return fmt.Sprint(string(text), err)
	}
	if got := update(signed(t, next, stranger)); !strings.Contains(got, "not signed by a trusted key") {
		t.Fatalf("an image of a stranger: %s", got)
	}
	if got := update(signed(t, next, key)); !strings.Contains(got, "installed as "+layout.NewSlot("1.1.0").Name()) {
		t.Fatalf("update: %s", got)
	}
	waitEnd(ctx, t, v) // it starts anew, which ends the emulator
	v = runBoot(ctx, t, c, "this version has proven itself, version 1.1.0")

	if got := update(signed(t, worse, key)); !strings.Contains(got, "1.2.0 is installed") {
		t.Fatalf("bad update: %s", got)
	}
	waitEnd(ctx, t, v)
	tries := 0
	for {
		v = runBoot(ctx, t, c, "starting, image ")
		if consoleValue(ctx, t, v, "starting, image ") == "1.1.0" {
			break
		}
		if tries++; tries > layout.MaxTries {
			t.Fatalf("1.2.0 is started for the %dth time:\n%s", tries, v.Console())
		}
		// A start in which the emulator stalls is a try as well. The box itself gives up after five minutes.
		within, cancel := context.WithTimeout(ctx, 2*bootTimeout)
		err := v.WaitConsole(within, "this version does not prove itself")
		cancel()
		if err != nil && !stalled(err) {
			t.Fatal(err)
		} else if err != nil {
			t.Logf("stalled: %v", err)
			v.Kill()
		}
		waitEnd(ctx, t, v)
	}
	if tries == 0 {
		t.Error("1.2.0 was never started")
	}
	wantConsole(ctx, t, v, vm.ReadyText)
	wantConsole(ctx, t, v, "version 1.2.0 did not prove itself in its tries: removed")
	powerDown(ctx, t, v)
}
