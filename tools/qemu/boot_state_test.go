//go:build qemu

package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
func consoleValue(t *testing.T, v *vm.VM, after string) string {
	t.Helper()
	_, rest, ok := strings.Cut(v.Console(), after)
	if !ok {
		t.Fatalf("console does not say %q:\n%s", after, v.Console())
	}
	return strings.FieldsFunc(rest, func(r rune) bool { return r == ',' || r == ' ' || r == '\r' || r == '\n' })[0]
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
	name := consoleValue(t, v, "new identity, name ")
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

// buildVersion builds a signed version; daemon stands in for millraced, empty is the real one.
func buildVersion(ctx context.Context, t *testing.T, version, daemon string, key ed25519.PrivateKey) image.Result {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	r, err := image.Build(ctx, image.Config{
		Board: board.All()[0], Source: filepath.Join("..", ".."), Output: filepath.Join(t.TempDir(), "v.img"),
		CacheDir: filepath.Join(cache, "millrace", "debs"), Version: version, Daemon: daemon,
		SignKeys: []ed25519.PrivateKey{key}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// runBoot boots through firmware and loader, as every start of an update does, until the console says
// text or the box starts anew by itself.
func runBoot(ctx context.Context, t *testing.T, c vm.Config, text string) *vm.VM {
	t.Helper()
	v, err := vm.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Kill)
	if err := v.WaitConsole(ctx, text); err != nil {
		t.Fatal(err)
	}
	return v
}

// A version is put on a box, started through the firmware, and is the good one once it has proven itself.
// One that does not is gone after its tries, and the box runs the version before.
func TestBoxUpdates(t *testing.T) {
	ctx := testContext(t)
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
	c := testConfig(t, filepath.Join(t.TempDir(), "data.img"))
	c.Direct = false
	c.Image = buildVersion(ctx, t, "1.0.0", "", key).Image
	ownDisk(t, &c, fmt.Sprintf(adminConfig, fmt.Sprintf(", hostname: box-1, update_keys: [%q]", signature.FormatKey(public))), 1<<30)

	v := bootBox(ctx, t, c)
	update := func(uki string) string {
		cmd := exec.CommandContext(ctx, bin, "node", "update", "-no-wait", "box-1", uki)
		cmd.Env = append(os.Environ(), "NATS_URL=nats://"+v.Addr(natsPort), "NATS_USER=admin", "NATS_PASSWORD=secret")
		text, err := cmd.CombinedOutput()
		return fmt.Sprint(string(text), err)
	}
	if got := update(buildVersion(ctx, t, "1.0.1", "", stranger).UKI); !strings.Contains(got, "not signed by a trusted key") {
		t.Fatalf("an image of a stranger: %s", got)
	}
	if got := update(buildVersion(ctx, t, "1.1.0", "", key).UKI); !strings.Contains(got, "installed as "+layout.NewSlot("1.1.0").Name()) {
		t.Fatalf("update: %s", got)
	}
	<-v.Done() // it starts anew, which ends the emulator
	v = runBoot(ctx, t, c, "this version has proven itself, version 1.1.0")

	if got := update(buildVersion(ctx, t, "1.2.0", bad, key).UKI); !strings.Contains(got, "1.2.0 is installed") {
		t.Fatalf("bad update: %s", got)
	}
	<-v.Done()
	for left := layout.MaxTries - 1; left >= 0; left-- {
		v = runBoot(ctx, t, c, fmt.Sprintf("on trial, version 1.2.0, tries left after this one %d", left))
		if err := v.WaitConsole(ctx, "this version does not prove itself"); err != nil {
			t.Fatal(err)
		}
		<-v.Done()
	}
	v = bootBox(ctx, t, c)
	wantConsole(ctx, t, v, "starting, image 1.1.0")
	wantConsole(ctx, t, v, "version 1.2.0 did not prove itself in its tries: removed")
	powerDown(ctx, t, v)
}
