package qemu

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/appliance/node"
	"millrace/appliance/system/boot"
	"millrace/board"
	"millrace/image"
	"millrace/image/layout"
	"millrace/tools/qemu/vm"
)

// fakeFleet is a fleet whose emulator is a script: it says what a box says and waits.
func fakeFleet(t *testing.T) fleetConfig {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "emulator")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho '"+vm.ReadyText+"nats://x'\necho 'status: x, ok'\nexec sleep 600\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b, _ := board.ByName("qemu-amd64")
	img := filepath.Join(dir, "m.img")
	if err := image.WriteDisk(img, b, map[string][]byte{"/EFI/Linux/millrace_1.efi": []byte("MZ")}); err != nil {
		t.Fatal(err)
	}
	b.QEMU.Binary = script
	return fleetConfig{
		Board: b, Image: img, Dir: filepath.Join(dir, "fleet"), Nodes: 2, Routers: 1, DataBytes: 1 << 20, Direct: true,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// Kept disks of another image are told of; new ones are of the image.
func TestFleetTellsOfAnotherImage(t *testing.T) {
	c := fakeFleet(t)
	others := func() []string {
		t.Helper()
		f, err := newFleet(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
		return f.other
	}
	for range 2 {
		if got := others(); len(got) > 0 {
			t.Fatalf("%q are said to be of another image", got)
		}
	}
	if err := image.WriteDisk(c.Image, c.Board, map[string][]byte{"/EFI/Linux/millrace_2.efi": []byte("MZ")}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(others(), " "); got != "n1 n2 r1" {
		t.Errorf("%q are of another image, want all", got)
	}
	c.Fresh = true
	if got := others(); len(got) > 0 {
		t.Errorf("new disks of %q are said to be of another image", got)
	}
}

func TestNewFleet(t *testing.T) {
	c := fakeFleet(t)
	c.UpdateKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	f, err := newFleet(c)
	if err != nil {
		t.Fatal(err)
	}
	addresses := make(map[string]bool)
	for _, m := range f.machines {
		conf, err := image.ConfigOf(m.cfg.SystemDisk)
		if err != nil {
			t.Fatal(err)
		}
		file, err := boot.ParseConfig(m.name, string(conf))
		if err != nil {
			t.Fatalf("the box would refuse: %v", err)
		}
		if keys := file.Settings.UpdateKeys; len(keys) != 1 || !keys[0].Equal(c.UpdateKey) {
			t.Errorf("%s: updates by %v are taken", m.name, keys)
		}
		daemon := filepath.Join(t.TempDir(), m.name+".conf")
		if err := os.WriteFile(daemon, file.Millraced(m.storage, m.name), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := node.Load(daemon)
		if err != nil {
			t.Fatalf("millraced would refuse: %v", err)
		}
		if s.ServerName != m.name || len(s.Cluster.Routes) != 2 {
			t.Errorf("%s: server %q with routes %v", m.name, s.ServerName, s.Cluster.Routes)
		}
		if st, err := os.Stat(m.cfg.SystemDisk); err != nil || st.Size() <= layout.DiskBytes {
			t.Errorf("%s: system disk has no room for a state partition (error %v)", m.name, err)
		}
		if m.storage != (m.cfg.DataDisk != "") {
			t.Errorf("%s: data disk %q", m.name, m.cfg.DataDisk)
		}
		for _, a := range []string{m.address.String(), m.cfg.Network.MAC.String()} {
			if addresses[a] {
				t.Errorf("%s: address %s is another's too", m.name, a)
			}
			addresses[a] = true
		}
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}

	// What a machine keeps on its disk outlives the fleet, unless it is to be fresh.
	disk := f.machines[0].cfg.SystemDisk
	const kept = "kept by the box"
	d, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt([]byte(kept), layout.DiskBytes); err != nil {
		t.Fatal(err)
	}
	for _, fresh := range []bool{false, true} {
		c.Fresh = fresh
		if f, err = newFleet(c); err != nil {
			t.Fatal(err)
		}
		now, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(kept))
		if _, err := now.ReadAt(got, layout.DiskBytes); err != nil || (string(got) == kept) == fresh {
			t.Errorf("fresh %v: the disk holds %q (error %v)", fresh, got, err)
		}
		if err := errors.Join(now.Close(), f.close()); err != nil {
			t.Fatal(err)
		}
	}
	c.Nodes = 40
	if _, err := newFleet(c); err == nil {
		t.Error("a fleet of 41 machines was made")
	}
}

func TestFleetCommands(t *testing.T) {
	c := fakeFleet(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out lockedBuffer
	ended := make(chan error, 1)
	go func() { ended <- keepFleet(ctx, func() {}, c, 2, &out) }()
	for !strings.Contains(out.String(), "3 machines serve") {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	status := func() string {
		t.Helper()
		var b bytes.Buffer
		if err := ask(ctx, c.Dir, []string{"status"}, &b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if s := status(); strings.Count(s, "nats://127.0.0.1:") != 3 || !strings.Contains(s, "r1") {
		t.Errorf("status:\n%s", s)
	}
	url := func(name string) string {
		for line := range strings.Lines(status()) {
			if f := strings.Fields(line); len(f) == 5 && f[1] == name {
				return f[4]
			}
		}
		return ""
	}
	before := url("n2")
	for _, tt := range []struct {
		command string
		want    string // in the error; empty: none
		status  string // in the status after it
	}{
		{"kill n2", "", "off"},
		{"kill n2", "n2 is off", "off"},
		{"start 2", "", "on"},
		{"start 2", "n2 is on", "on"},
		{"powercut n2", "", "on"},
		{"cut n1 r1", "", "link n1 to r1: cut true"},
		{"delay r1 n1 50ms", "", "link n1 to r1: cut false, delay 50ms"},
		{"drop n1 n2 0.5", "", "link n1 to n2: cut false, delay 0s, drop 0.5"},
		{"drop n1 n2 5", "share from 0 to 1", ""},
		{"delay n1 n2 soon", "delay: ", ""},
		{"cut n1", "cut wants two machines", ""},
		{"kill n9", `no machine "n9"; there are n1, n2, r1`, ""},
		{"explode", "unknown command", ""},
	} {
		err := ask(ctx, c.Dir, strings.Fields(tt.command), &bytes.Buffer{})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want …%s…", tt.command, err, tt.want)
		}
		if s := status(); !strings.Contains(s, tt.status) {
			t.Errorf("%s: status lacks %q:\n%s", tt.command, tt.status, s)
		}
	}
	if after := url("n2"); after != before || after == "" {
		t.Errorf("n2 was at %q and is at %q after it was started anew", before, after)
	}
	if err := keepFleet(ctx, func() {}, c, 1, &out); err == nil || !strings.Contains(err.Error(), "runs in") {
		t.Errorf("a second fleet in the same folder: %v", err)
	}
	cancel() // as ^C does; the script hears no power button
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "press power button") {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("did not end")
	}
	if err := ask(t.Context(), c.Dir, []string{"status"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "no fleet runs") {
		t.Errorf("after the end: %v", err)
	}
}

// lockedBuffer is a buffer that several goroutines use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
