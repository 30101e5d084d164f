//go:build qemu

package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/appliance/boxapi"
	"millrace/board"
	"millrace/image"
	"millrace/tools/qemu/vm"
)

// How long things may take on a machine that has much else to do. None of it is waited for in vain: a fault is
// seen by what happens, not by time.
const (
	testTimeout = 15 * time.Minute // one test
	bootTimeout = 4 * time.Minute  // one boot, which takes 5 to 25 s in emulation on a quiet machine
	lineTimeout = 2 * time.Minute  // a line of the console that follows from something
	apiTimeout  = 30 * time.Second // one answer of a server
)

// testImage is the image under test: MILLRACE_IMAGE, or what `make image` builds.
func testImage(t *testing.T) string {
	t.Helper()
	img := os.Getenv("MILLRACE_IMAGE")
	if img == "" {
		img = filepath.Join("..", "..", ".build", "millrace.img")
	}
	if _, err := os.Stat(img); err != nil {
		t.Fatalf("no image (make image): %v", err)
	}
	return img
}

// testConfig describes a box with that data disk. The emulator must be installed.
func testConfig(t *testing.T, data string) vm.Config {
	t.Helper()
	b := board.All()[0]
	if _, err := exec.LookPath(b.QEMU.Binary); err != nil {
		t.Fatalf("%s is not installed (make deps)", b.QEMU.Binary)
	}
	return vm.Config{
		Board: b, Image: testImage(t), Direct: true, DataDisk: data, DataBytes: 2 << 30,
		Forwards:    []vm.Forward{{Guest: natsPort}},
		BootTimeout: bootTimeout,
		Logger:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// bootBox boots and waits until NATS answers on the forwarded port. The box is gone after the test.
func bootBox(ctx context.Context, t *testing.T, c vm.Config) *vm.VM {
	t.Helper()
	began := time.Now()
	v, err := vm.Boot(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Kill)
	if err := vm.WaitNATS(ctx, v.Addr(natsPort)); err != nil {
		t.Fatal(err)
	}
	t.Logf("booted in %.1f s", time.Since(began).Seconds())
	return v
}

// connect opens a client without reconnects: a lost connection is to be seen.
func connect(t *testing.T, v *vm.VM, opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect("nats://"+v.Addr(natsPort), append(opts, nats.NoReconnect(), nats.Timeout(apiTimeout))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// wantConsole expects a line with text on the console, soon: it may still be on its way. Here a kernel that says that its
// processor stalls is none that has failed: the machine is only slow.
func wantConsole(ctx context.Context, t *testing.T, v *vm.VM, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, lineTimeout)
	defer cancel()
	if _, err := v.ConsoleLine(ctx, text); err != nil {
		t.Errorf("%v\n%s", err, v.Console())
	}
}

// powerDown presses the power button and expects a clean end.
func powerDown(ctx context.Context, t *testing.T, v *vm.VM) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, lineTimeout)
	defer cancel()
	if err := v.PowerDown(ctx); err != nil {
		t.Fatal(err)
	}
	if c := v.Console(); !strings.Contains(c, "powering off, cause power button") || strings.Contains(c, "unmounted cleanly") {
		t.Errorf("not a clean power off:\n%s", c)
	}
}

// A power cut in the middle of publishing: every acknowledged message is there after the next boot,
// and still after a clean power off.
func TestBoxKeepsAcknowledgedMessages(t *testing.T) {
	ctx := testContext(t)
	c := testConfig(t, filepath.Join(t.TempDir(), "data.img"))
	c.Direct = false // the first boot goes through firmware and boot loader
	if _, err := os.Stat(c.Board.QEMU.NVRAM); err != nil {
		t.Fatalf("firmware is not installed (make deps): %v", err)
	}
	v := bootBox(ctx, t, c)
	if !strings.Contains(v.Console(), "formatting empty data disk") {
		t.Errorf("a fresh disk was not formatted:\n%s", v.Console())
	}
	_, js := connect(t, v)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	acked := publishUntilKilled(ctx, t, js, v)
	t.Logf("%d messages acknowledged before the power cut", acked)

	c.Direct = true
	v = bootBox(ctx, t, c)
	last := checkMessages(ctx, t, v, acked)
	powerDown(ctx, t, v)

	v = bootBox(ctx, t, c)
	if again := checkMessages(ctx, t, v, acked); again != last {
		t.Errorf("a clean power off changed the last sequence from %d to %d", last, again)
	}
	powerDown(ctx, t, v)
}

// publishUntilKilled publishes numbered messages, cuts the power while doing so, and returns how
// many were acknowledged. Message n has sequence n.
func publishUntilKilled(ctx context.Context, t *testing.T, js jetstream.JetStream, v *vm.VM) uint64 {
	t.Helper()
	const before = 500 // acknowledged messages to wait for
	var acked atomic.Uint64
	enough, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for n := uint64(1); ; n++ {
			ack, err := js.Publish(ctx, "s.x", fmt.Appendf(nil, "message %d", n))
			if err != nil {
				ended <- err
				return
			}
			if ack.Sequence != n {
				t.Errorf("message %d has sequence %d", n, ack.Sequence)
			}
			if acked.Store(n); n == before {
				close(enough)
			}
		}
	}()
	select {
	case <-enough:
	case err := <-ended:
		t.Fatalf("publishing ended after %d messages: %v; console:\n%s", acked.Load(), err, v.Console())
	case <-ctx.Done():
		t.Fatalf("%d messages acknowledged: %v", acked.Load(), ctx.Err())
	}
	v.Kill()
	<-ended
	return acked.Load()
}

// checkMessages reads every message up to the last acknowledged one and returns the stream's last
// sequence.
func checkMessages(ctx context.Context, t *testing.T, v *vm.VM, acked uint64) uint64 {
	t.Helper()
	_, js := connect(t, v)
	s, err := js.Stream(ctx, "S")
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	// One more may have been stored whose acknowledgement was lost with the power.
	if state.FirstSeq != 1 || state.LastSeq < acked || state.LastSeq > acked+1 {
		t.Errorf("stream holds %d to %d, want 1 to %d or one more", state.FirstSeq, state.LastSeq, acked)
	}
	for n := uint64(1); n <= acked; n++ {
		m, err := s.GetMsg(ctx, n)
		if err != nil {
			t.Fatalf("message %d of %d acknowledged: %v", n, acked, err)
		}
		if want := fmt.Sprintf("message %d", n); string(m.Data) != want {
			t.Fatalf("message %d holds %q, want %q", n, m.Data, want)
		}
	}
	return state.LastSeq
}

// A disk with somebody's data is refused loudly and not changed by a byte; the box serves without streams. When its
// operator says so, with the serial number of the disk, the box takes it.
func TestBoxLeavesForeignDiskAlone(t *testing.T) {
	ctx := testContext(t)
	data := filepath.Join(t.TempDir(), "data.img")
	foreign := append(make([]byte, 3<<20), "somebody's holiday pictures"...)
	if err := os.WriteFile(data, append(foreign, make([]byte, 100<<20)...), 0o644); err != nil {
		t.Fatal(err)
	}
	before := fileSum(t, data)
	c := testConfig(t, data)
	ownDisk(t, &c, `accounts { $SYS { users: [ { user: admin, password: admin } ] } }
appliance { hostname: box-1, ntp: off }
`, 1<<30)
	c.Reboots = true
	v := bootBox(ctx, t, c)
	for _, want := range []string{"disk vdb holds data that is not Millrace's", "no data disk: this box is a router, streams are off", "store none"} {
		wantConsole(ctx, t, v, want)
	}
	nc, js := connect(t, v)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err == nil {
		t.Error("a stream was created without a data disk")
	}
	sub, err := nc.SubscribeSync("core")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("core", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.NextMsg(apiTimeout); err != nil {
		t.Errorf("core NATS does not work: %v", err)
	}
	a := &admin{t: t, millrace: buildMillrace(ctx, t), url: "nats://" + v.Addr(natsPort)}
	router := a.await(ctx, "box-1", time.Time{})
	a.want(ctx, "", []string{"disks", "box-1"}, "vdb", "unknown data at byte 3145728")
	if out, err := a.run(ctx, "", "disks", "box-1", "-take", "vdb", "-yes-erase", "vdb"); err == nil {
		t.Errorf("the disk was taken without its serial number: %s", out)
	}
	if after := fileSum(t, data); after != before {
		t.Error("the foreign disk was changed")
	}
	a.want(ctx, "", []string{"disks", "box-1", "-take", "vdb", "-yes-erase", "data"}, "takes disk vdb and starts anew")
	if info := a.await(ctx, "box-1", router.Started); info.Role != boxapi.RoleStorage || info.Key != router.Key {
		t.Errorf("with the disk: %+v", info)
	}
	_, js = connect(t, v)
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Errorf("no stream on the disk that was taken: %v", err)
	}
	powerDown(ctx, t, v)
}

// The configuration that flashing put on the image rules: users, hostname and fixed address.
func TestBoxUsesConfigurationOnImage(t *testing.T) {
	ctx := testContext(t)
	c := testConfig(t, filepath.Join(t.TempDir(), "data.img"))
	c.Image = imageWithConfig(t, c.Image, `
appliance {
  hostname: box-1
  network { address: "10.0.2.33/24", gateway: "10.0.2.2" }
}
listen: "10.0.2.33:4222"
authorization { user: me, password: secret }
`)
	v, err := vm.Boot(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Kill)
	for _, want := range []string{"using configuration /config/millrace.conf", "link eth0, address 10.0.2.33/24", "ready, nats://10.0.2.33:4222, store /data/millrace"} {
		wantConsole(ctx, t, v, want)
	}
	powerDown(ctx, t, v)
}

// A configuration that cannot be read leaves the box closed, not open with built-in defaults.
func TestBoxRefusesBrokenConfiguration(t *testing.T) {
	ctx := testContext(t)
	c := testConfig(t, filepath.Join(t.TempDir(), "data.img"))
	c.Image = imageWithConfig(t, c.Image, "port: 4222\njetstream {\n  store_dir: /elsewhere\n}\n")
	v, err := vm.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Kill)
	const want = "not serving, cause /config/millrace.conf: line 3: store_dir: \"/elsewhere\" is not on the data disk"
	if err := v.WaitConsole(ctx, want); err != nil {
		t.Fatal(err)
	}
	powerDown(ctx, t, v)
	if strings.Contains(v.Console(), vm.ReadyText) {
		t.Errorf("the box serves:\n%s", v.Console())
	}
}

// imageWithConfig copies an image and puts a configuration on the copy. The copy shares kernel and
// initramfs with the original.
func imageWithConfig(t *testing.T, img, conf string) string {
	t.Helper()
	from, to := image.Outputs(img), image.Outputs(filepath.Join(t.TempDir(), "configured.img"))
	if out, err := exec.Command("cp", "--sparse=always", from.Image, to.Image).CombinedOutput(); err != nil {
		t.Fatalf("copy image: %v\n%s", err, out)
	}
	if err := image.SetConfig(to.Image, []byte(conf)); err != nil {
		t.Fatal(err)
	}
	for old, link := range map[string]string{from.Kernel: to.Kernel, from.Initramfs: to.Initramfs} {
		abs, err := filepath.Abs(old)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(abs, link); err != nil {
			t.Fatal(err)
		}
	}
	return to.Image
}

// fileSum is the SHA-256 of a file.
func fileSum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// The command says what to connect to and powers the box off when asked to end.
func TestRunCommand(t *testing.T) {
	ctx := testContext(t)
	c := testConfig(t, "")
	cmd := exec.CommandContext(ctx, buildMillrace(ctx, t), "qemu", "run", "-direct", "-image", c.Image, "-port", "0",
		"-data", filepath.Join(t.TempDir(), "data.img"), "-log", filepath.Join(t.TempDir(), "log"))
	out := &watcher{text: "^C powers the box off", seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-out.seen:
	case err := <-ended:
		t.Fatalf("ended early: %v\n%s", err, out.buf.String())
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("%v\n%s", err, out.buf.String())
	}
	for _, want := range []string{"Millrace serves at nats://127.0.0.1:", "powering off, cause power button"} {
		if !strings.Contains(out.buf.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.buf.String())
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Error("timed out")
	}
}

// watcher collects output and closes seen when text has come.
type watcher struct {
	text string
	seen chan struct{}
	buf  bytes.Buffer
	done bool
}

// Write implements io.Writer; one goroutine calls it.
func (w *watcher) Write(p []byte) (int, error) {
	w.buf.Write(p)
	if !w.done && strings.Contains(w.buf.String(), w.text) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}
