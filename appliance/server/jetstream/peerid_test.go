package jetstream

import (
	"testing"

	"millrace/appliance/server/jetstream/meta"
)

func TestShortID(t *testing.T) {
	for _, tc := range []struct {
		n    uint64
		want string
	}{{0, "00000000"}, {61, "0000000z"}, {62, "00000010"}, {1<<44 - 1, "4ziepp2F"}} {
		if got := shortID(tc.n); got != tc.want {
			t.Errorf("shortID(%d) = %s, want %s", tc.n, got, tc.want)
		}
	}
	seen := map[string]uint64{}
	for i := range uint64(5000) {
		n := i * 0x9E3779B97F4A7C15 >> 20
		if other, ok := seen[shortID(n)]; ok && other != n {
			t.Fatalf("%d and %d are both %s", n, other, shortID(n))
		}
		seen[shortID(n)] = n
	}
}

func TestGroupName(t *testing.T) {
	g := meta.Group{ID: 1024, Began: []uint64{1, 2, 3}, Members: []meta.Member{{Replica: 1}}}
	if got := groupName("S", &g, false); got != "S-R3F-000000GW" {
		t.Error(got)
	}
	if got := groupName("C", &g, true); got != "C-R3M-000000GW" {
		t.Error(got)
	}
	if got, want := peerID(meta.NodeOf(7<<meta.NodeBits|3)), "00000007"; got != want {
		t.Errorf("peer id %s, want %s", got, want)
	}
}
