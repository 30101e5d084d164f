//go:build qemu

package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"millrace/appliance/boxapi"
)

// admin runs `millrace node` against a fleet.
type admin struct {
	t        *testing.T
	millrace string
	url      string
}

// run returns what the command prints, and its error.
func (a *admin) run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, a.millrace, append([]string{"node"}, args...)...)
	cmd.Env = append(os.Environ(), "NATS_URL="+a.url, "NATS_USER=admin", "NATS_PASSWORD=admin")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// want runs the command and expects texts.
func (a *admin) want(ctx context.Context, stdin string, args []string, texts ...string) {
	a.t.Helper()
	out, err := a.run(ctx, stdin, args...)
	if err != nil {
		a.t.Fatalf("millrace node %v: %v\n%s", args, err, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			a.t.Errorf("millrace node %v: lacks %q:\n%s", args, text, out)
		}
	}
}

// ask returns what a box says of itself.
func (a *admin) ask(ctx context.Context, name string) (info boxapi.Info, err error) {
	out, err := a.run(ctx, "", "info", name)
	if err != nil {
		return info, fmt.Errorf("%w: %s", err, out)
	}
	return info, json.Unmarshal([]byte(out), &info)
}

// await returns what a box says of itself, once it is well and has started after a time.
func (a *admin) await(ctx context.Context, name string, after time.Time) boxapi.Info {
	a.t.Helper()
	for {
		info, err := a.ask(ctx, name)
		if err == nil && info.Health.OK() && info.Started.After(after) {
			return info
		}
		select {
		case <-ctx.Done():
			a.t.Fatalf("%s is not well: %v, last: %+v (error %v)", name, ctx.Err(), info, err)
		case <-time.After(time.Second):
		}
	}
}

// A storage node is administered through a router: asked, given another configuration, started anew in place, and reset
// with its data.
func TestFleetIsAdministered(t *testing.T) {
	ctx := testContext(t)
	f := testFleet(t, fleetConfig{Nodes: 1, Routers: 1, Direct: true})
	n1, r1 := f.machines[0], f.machines[1]
	r1.cfg.MemoryMiB = 256 // is enough for a router
	if err := start(ctx, f.machines, 2); err != nil {
		t.Fatal(err)
	}
	a := &admin{t: t, millrace: buildMillrace(ctx, t), url: r1.url}
	info := a.await(ctx, "n1", time.Time{})
	a.await(ctx, "r1", time.Time{})
	if info.Role != boxapi.RoleStorage || info.Addresses[0] != n1.address.String() {
		t.Errorf("n1: %+v", info)
	}
	a.want(ctx, "", []string{"ls"}, "n1", "storage", "r1", "router", "10.77.0.2")
	a.want(ctx, "", []string{"logs", "n1"}, "formatting empty data disk", "kernel: ")
	a.want(ctx, "", []string{"disks", "n1"}, "vda", "system", "vdb", "data")
	conf := f.config(n1)
	a.want(ctx, "", []string{"config", "get", "n1"}, conf)
	if out, err := a.run(ctx, "listen: \"nowhere\"\n", "config", "set", "n1"); err == nil {
		t.Errorf("a bad configuration was taken: %s", out)
	}

	client := fleetClient(t, r1.url)
	l := newLedger(ctx, t, client.js, "S", 1)
	stop := l.begin(ctx, t, 20*time.Millisecond, client)
	l.more(ctx, t, 20)
	a.want(ctx, conf+"max_payload: 2MB\n", []string{"config", "set", "n1", "-reboot"}, "new configuration")
	info = a.await(ctx, "n1", info.Started)
	a.want(ctx, "", []string{"config", "get", "n1"}, "max_payload: 2MB")
	l.more(ctx, t, 20)
	a.want(ctx, "", []string{"reboot", "n1"}, "starts anew")
	info = a.await(ctx, "n1", info.Started)
	l.more(ctx, t, 20)
	stop()
	l.check(ctx, t, client.js)

	if out, err := a.run(ctx, "", "reset", "n1", "-data"); err == nil {
		t.Errorf("reset without the name once more: %s", out)
	}
	a.want(ctx, "", []string{"reset", "n1", "-data", "--yes", "n1"}, "is reset")
	reset := a.await(ctx, "n1", info.Started)
	if reset.Key == info.Key {
		t.Error("a box that was reset has the key of before")
	}
	a.want(ctx, "", []string{"config", "get", "n1"}, conf) // that which was flashed
	newLedger(ctx, t, client.js, "S", 1)
	if s, err := client.js.Stream(ctx, "S"); err != nil || s.CachedInfo().State.Msgs != 0 {
		t.Errorf("after the reset: stream %v, error %v", s, err)
	}
}
