//go:build qemu

package qemu

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/tools/qemu/vm"
)

// Two boxes in a VLAN hear each other, though not one that is on the same wire and in none.
func TestFleetOnVLAN(t *testing.T) {
	long(t)
	ctx := testContext(t)
	f := testFleet(t, fleetConfig{Nodes: 2, Direct: true, ConfigDir: vlanConfigs(t)})
	if err := start(ctx, f.machines, 2); err != nil {
		t.Fatal(err)
	}
	for _, m := range f.machines {
		wantConsole(ctx, t, m.vm, "link eth0.7, address "+m.address.String()+"/24")
		// Two of two are a quorum: one alone is never well.
		wantConsole(ctx, t, m.vm, "storage, cluster fleet, ok")
		// The gateway sends without a tag.
		within, cancel := context.WithTimeout(ctx, 3*time.Second)
		if err := vm.WaitNATS(within, strings.TrimPrefix(m.url, "nats://")); err == nil {
			t.Errorf("%s answers who is not in its VLAN", m.name)
		}
		cancel()
	}
	if err := f.down(ctx); err != nil {
		t.Error(err)
	}
}

// vlanConfigs writes the configurations of a fleet of two nodes, with their addresses in a VLAN.
func vlanConfigs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	plain := testFleet(t, fleetConfig{Nodes: 2, Direct: true})
	for _, m := range plain.machines {
		conf := strings.Replace(plain.config(m), "network { ", "network { vlan: 7, ", 1)
		if err := os.WriteFile(filepath.Join(dir, m.name+".conf"), []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
