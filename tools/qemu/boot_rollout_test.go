//go:build qemu

package qemu

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// maxGap is how long nothing may be acknowledged during an update: a fraction of the time that a box is away, so that a
// box that takes its leaders along is seen. What is longer than a second here is the emulation: while a box boots it takes
// the processors from the other two. How long publishing waits for a leader to move is measured with real processes, by
// TestClusterHandsOver of tools/e2e.
const maxGap = 6 * time.Second

// A fleet of three gets a new version, one box after the other, while messages are published to streams with leaders on
// all of them. At most one box is away at a time, publishing goes on, and every acknowledged message is there.
func TestFleetUpdate(t *testing.T) {
	long(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	t.Cleanup(cancel)
	millrace := buildMillrace(ctx, t)
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	const version = "1.1.0"
	next := signed(t, buildVersion(ctx, t, version, ""), private)
	f := testFleet(t, fleetConfig{Nodes: 3, UpdateKey: public})
	began := time.Now()
	if err := start(ctx, f.machines, 2); err != nil {
		t.Fatal(err)
	}
	t.Logf("3 machines serve after %.1f s", time.Since(began).Seconds())

	// One client a machine: that it is connected says that the machine serves.
	var urls []string
	var clients []*fleetConn
	for _, m := range f.machines {
		urls = append(urls, m.url)
		clients = append(clients, fleetClient(t, m.url))
	}
	var ledgers []*ledger
	var stops []func()
	for _, stream := range []string{"A", "B", "C"} {
		l := newLedger(ctx, t, clients[0].js, stream, 3)
		stops = append(stops, l.begin(ctx, t, 300*time.Millisecond, clients...))
		l.more(ctx, t, 20)
		ledgers = append(ledgers, l)
	}
	logLeaders(ctx, t, clients[0], ledgers)

	began = time.Now()
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	least := len(clients)
	wg.Go(func() { least = leastConnected(watching, clients) })
	cmd := exec.CommandContext(ctx, millrace, "cluster", "update", next)
	cmd.Env = append(os.Environ(), "NATS_URL="+strings.Join(urls, ","), "NATS_USER=admin", "NATS_PASSWORD=admin")
	var out strings.Builder
	log := stampWriter{w: io.MultiWriter(t.Output(), &out), began: began}
	cmd.Stdout, cmd.Stderr = &log, &log
	err = cmd.Run()
	stop()
	wg.Wait()
	for _, l := range ledgers {
		l.checkGaps(t, began)
	}
	if err != nil || !strings.Contains(out.String(), "3 boxes updated to "+version) {
		for _, m := range f.machines {
			t.Logf("console of %s:\n%s", m.name, m.vm.Console())
		}
		t.Fatalf("cluster update: %v", err)
	}
	t.Logf("updated after %.1f s", time.Since(began).Seconds())
	if least < 2 {
		t.Errorf("at a time only %d of 3 machines served", least)
	}
	for _, m := range f.machines {
		wantConsole(ctx, t, m.vm, "this version has proven itself, version "+version)
	}
	logLeaders(ctx, t, clients[0], ledgers)
	for i, l := range ledgers {
		l.more(ctx, t, 20)
		stops[i]() // what is acknowledged after the stream was read would look lost
		l.check(ctx, t, clients[0].js)
	}
}

// checkGaps logs the times in which nothing was acknowledged, and wants them short.
func (l *ledger) checkGaps(t *testing.T, began time.Time) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.gaps {
		t.Logf("stream %s: nothing acknowledged for %.2f s, at %.1f s", l.stream, g.took.Seconds(), g.from.Sub(began).Seconds())
		if g.took > maxGap {
			t.Errorf("stream %s: nothing was acknowledged for %v", l.stream, g.took)
		}
	}
}

// buildMillrace builds the operator command.
func buildMillrace(ctx context.Context, t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "millrace")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "../millrace").CombinedOutput(); err != nil {
		t.Fatalf("build the operator command: %v\n%s", err, out)
	}
	return bin
}

// leastConnected returns how few of clients were connected at a time, until ctx ends.
func leastConnected(ctx context.Context, clients []*fleetConn) int {
	least := len(clients)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n := 0
		for _, c := range clients {
			if c.nc.IsConnected() {
				n++
			}
		}
		least = min(least, n)
		select {
		case <-ctx.Done():
			return least
		case <-tick.C:
		}
	}
}

// logLeaders logs who leads the streams.
func logLeaders(ctx context.Context, t *testing.T, c *fleetConn, ledgers []*ledger) {
	t.Helper()
	for _, l := range ledgers {
		s, err := c.js.Stream(ctx, l.stream)
		if err != nil {
			t.Fatal(err)
		}
		if cl := s.CachedInfo().Cluster; cl != nil {
			t.Logf("stream %s is led by %s", l.stream, cl.Leader)
		}
	}
}

// stampWriter puts the time before each write: a line of the command.
type stampWriter struct {
	w     io.Writer
	began time.Time
}

// Write implements io.Writer.
func (s *stampWriter) Write(p []byte) (int, error) {
	_, err := fmt.Fprintf(s.w, "%6.1f s  %s", time.Since(s.began).Seconds(), p)
	return len(p), err
}
