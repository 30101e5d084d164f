package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs the test in a network namespace of its own, with one end of a cable in it.
func inNamespace(t *testing.T) (link netlink.Link) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	runtime.LockOSThread() // for good: the thread ends with the goroutine, and the namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	// /proc/sys/net is that of the thread which mounted it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Skipf("no mounts of its own: %v", err)
	}
	a := netlink.NewLinkAttrs()
	a.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "peer0"}); err != nil {
		t.Skipf("no virtual cable: %v", err)
	}
	peer, err := netlink.LinkByName("peer0")
	if err == nil {
		err = netlink.LinkSetUp(peer)
	}
	if err != nil {
		t.Fatal(err)
	}
	if link, err = netlink.LinkByName("eth0"); err != nil {
		t.Fatal(err)
	}
	return link
}

func addrsOf(t *testing.T, link netlink.Link, family int) string {
	t.Helper()
	list, err := netlink.AddrList(link, family)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, a := range list {
		if !a.IP.IsLinkLocalUnicast() {
			s = append(s, a.IPNet.String())
		}
	}
	slices.Sort(s)
	return fmt.Sprint(s)
}

// Fixed addresses of both kinds and their gateways, as the kernel has them afterwards.
func TestNetworkFixed(t *testing.T) {
	eth := inNamespace(t)
	link := testFixed(t, eth, 0)
	if link.Attrs().Name != "eth0" {
		t.Errorf("used link %s", link.Attrs().Name)
	}
}

// The same in a VLAN: the untagged network has none of it.
func TestNetworkFixedOnVLAN(t *testing.T) {
	eth := inNamespace(t)
	if _, err := addVLAN(eth, 7); err != nil {
		t.Skipf("no VLANs here: %v", err)
	}
	link := testFixed(t, eth, 12)
	if v, ok := link.(*netlink.Vlan); !ok || v.VlanId != 12 || v.ParentIndex != eth.Attrs().Index || v.Name != "eth0.12" {
		t.Errorf("used link %+v", link)
	}
	if got := addrsOf(t, eth, netlink.FAMILY_ALL); got != "[]" {
		t.Errorf("the untagged network has addresses %s", got)
	}
}

// testFixed sets addresses up and returns the link that has them.
func testFixed(t *testing.T, eth netlink.Link, vlan int) netlink.Link {
	t.Helper()
	n := &Network{cancel: func() {}, cfg: Config{
		Logger: slog.New(slog.DiscardHandler), VLAN: vlan,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("2001:db8::5/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")},
	}.withDefaults()}
	if err := n.cfg.validate(); err != nil {
		t.Fatal(err)
	}
	if err := n.prepare([]netlink.Link{eth}); err != nil {
		t.Fatal(err)
	}
	if len(n.links) != 1 {
		t.Fatalf("links %v", n.links)
	}
	link := n.links[0]
	// Not fixed, which writes /etc/resolv.conf of this machine.
	if err := n.setFixed(link); err != nil {
		t.Fatal(err)
	}
	if got := addrsOf(t, link, netlink.FAMILY_V4); got != "[10.0.0.5/24]" {
		t.Errorf("IPv4 addresses %s", got)
	}
	if got := addrsOf(t, link, netlink.FAMILY_V6); got != "[2001:db8::5/64]" {
		t.Errorf("IPv6 addresses %s", got)
	}
	var gateways []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(link, family)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Gw != nil {
				gateways = append(gateways, r.Gw.String())
			}
		}
	}
	if got := fmt.Sprint(gateways); got != "[10.0.0.1 fe80::1]" {
		t.Errorf("gateways %s", got)
	}
	if got := fmt.Sprint(n.Addrs()[0]); got != "10.0.0.5" {
		t.Errorf("first address for people %s", got)
	}
	return link
}

// With IPv6 off a link has no address of it, not even its own; with it, one soon.
func TestNetworkIPv6Switch(t *testing.T) {
	eth := inNamespace(t)
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/eth0"); err != nil {
		t.Skipf("settings of the namespace are not seen: %v", err)
	}
	for _, off := range []bool{false, true, false} {
		n := &Network{cancel: func() {}, cfg: Config{Logger: slog.New(slog.DiscardHandler), NoIPv6: off}}
		if err := n.prepare([]netlink.Link{eth}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		tick := time.NewTicker(20 * time.Millisecond)
		for has := off; has == off; {
			list, err := netlink.AddrList(eth, netlink.FAMILY_V6)
			if err != nil {
				t.Fatal(err)
			}
			if has = len(list) > 0; has == off {
				select {
				case <-tick.C:
				case <-ctx.Done():
					t.Fatalf("IPv6 off %v: addresses %v", off, list)
				}
			}
		}
		tick.Stop()
		cancel()
	}
}
