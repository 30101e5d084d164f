//go:build qemu

package qemu

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/tools/qemu/disk"
)

// powerNumber returns a number of the environment, or what it is without.
func powerNumber(t *testing.T, name string, without int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return without
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// powerFleet is a fleet whose disks lose what was not flushed.
type powerFleet struct {
	*fleet
	disks map[*machine][]*disk.Disk // system and data
	rand  *rand.Rand
	lost  int // sectors that data disks had taken and did not keep
}

// newPowerFleet makes three storage nodes; nothing runs yet.
func newPowerFleet(t *testing.T, seed uint64, lies bool) *powerFleet {
	t.Helper()
	box := testConfig(t, "")
	f, err := newFleet(fleetConfig{
		Board: box.Board, Image: box.Image, Dir: t.TempDir(), Nodes: 3, Direct: true, MemoryMiB: 512, CPUs: 1,
		Logger: box.Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &powerFleet{fleet: f, disks: make(map[*machine][]*disk.Disk), rand: rand.New(rand.NewPCG(seed, 1))}
	sockets, err := os.MkdirTemp("", "millrace-disk-") // paths of sockets must be shorter than 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	var servers []*disk.Server
	t.Cleanup(func() {
		errs := []error{f.close(), os.RemoveAll(sockets)}
		for _, s := range servers {
			errs = append(errs, s.Close())
		}
		for _, m := range f.machines {
			for _, d := range p.disks[m] {
				errs = append(errs, d.Close())
			}
		}
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
	})
	for _, m := range f.machines {
		m.cfg.SystemSocket, m.cfg.DataSocket = filepath.Join(sockets, m.name+"s"), filepath.Join(sockets, m.name+"d")
		m.cfg.BootTimeout = bootTimeout
		for _, at := range []struct{ path, socket string }{{m.cfg.SystemDisk, m.cfg.SystemSocket}, {m.cfg.DataDisk, m.cfg.DataSocket}} {
			d, err := disk.Open(disk.Config{Path: at.path, Bytes: 1 << 30, IgnoreFlush: lies})
			if err != nil {
				t.Fatal(err)
			}
			p.disks[m] = append(p.disks[m], d)
			s, err := disk.Serve(d, at.socket)
			if err != nil {
				t.Fatal(err)
			}
			servers = append(servers, s)
		}
	}
	return p
}

// cut takes the power of machines at once, in the middle of writes of the first one's data disk, and of the others' if they
// write then too. First the disks lose theirs, so nothing that a machine does after that counts.
func (p *powerFleet) cut(ctx context.Context, t *testing.T, machines ...*machine) {
	t.Helper()
	const first, others = 10 * time.Second, 30 * time.Millisecond // how long a write is waited for
	for i, m := range machines {
		within := others
		if i == 0 {
			within = first
		}
		waiting, cancel := context.WithTimeout(ctx, within)
		system, data := p.disks[m][0], p.disks[m][1]
		l, err := data.CutWhen(waiting, p.rand.Uint64(), 1+p.rand.IntN(2))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s data: %d flushes so far, cut with %+v", m.name, data.Flushes(), l)
		p.lost += l.SectorsN - l.SectorsKept
		if l, err = system.Cut(p.rand.Uint64()); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s system: %d flushes so far, cut with %+v", m.name, system.Flushes(), l)
	}
	for _, m := range machines {
		if err := m.cut(); err != nil {
			t.Fatal(err)
		}
	}
}

// on switches machines on, two at a time, and looks that each has its data disk and needed no help.
func (p *powerFleet) on(ctx context.Context, t *testing.T, machines ...*machine) {
	t.Helper()
	began := time.Now()
	if err := start(ctx, machines, 2); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d machines serve after %.1f s", len(machines), time.Since(began).Seconds())
	for _, m := range machines {
		wantConsole(ctx, t, m.vm, "store /data/millrace")
		for _, never := range []string{"UNEXPECTED INCONSISTENCY", "BUG: ", "panic:", "Kernel panic"} {
			if strings.Contains(m.vm.Console(), never) {
				t.Errorf("%s says %q:\n%s", m.name, never, m.vm.Console())
			}
		}
	}
}

// The power of one node, then of all at once, is cut while messages are published, on disks that lose, tear and
// reorder what was not flushed. Every acknowledged message is there, once, and every box starts by itself.
//
// MILLRACE_POWER_CUTS is how many such rounds there are, one without; MILLRACE_SEED repeats the losses of a run as far as
// the guests write the same; MILLRACE_DISK_LIES=1 makes disks that ignore flushes, on which the test must fail.
func TestFleetPowerCuts(t *testing.T) {
	rounds := powerNumber(t, "MILLRACE_POWER_CUTS", 1)
	seed := powerNumber(t, "MILLRACE_SEED", int(rand.Uint32()))
	t.Logf("MILLRACE_SEED=%d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rounds+1)*6*time.Minute)
	t.Cleanup(cancel)
	p := newPowerFleet(t, uint64(seed), os.Getenv("MILLRACE_DISK_LIES") != "")
	p.on(ctx, t, p.machines...)

	var urls []string
	for _, m := range p.machines {
		urls = append(urls, m.url)
	}
	client := fleetClient(t, urls...)
	l := newLedger(ctx, t, client.js, "S", 3)
	stop := l.begin(ctx, t, 10*time.Millisecond, client)
	const some = 200
	for range rounds {
		l.more(ctx, t, some)
		one := p.machines[p.rand.IntN(len(p.machines))]
		p.cut(ctx, t, one)
		l.more(ctx, t, some) // two of three go on
		p.on(ctx, t, one)
		l.more(ctx, t, some)
		all := slices.Clone(p.machines)
		p.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		p.cut(ctx, t, all...)
		p.on(ctx, t, p.machines...)
	}
	l.more(ctx, t, some)
	stop()
	t.Logf("%d sectors were lost that had not been flushed", p.lost)
	l.check(ctx, t, client.js)
}
