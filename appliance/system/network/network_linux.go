package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is the running network of the box.
type Network struct {
	cfg      Config
	hostname string
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	links []netlink.Link // that are used

	mu          sync.Mutex
	addrs       []netip.Addr // in the order they were got
	timeServers []string
}

// Up brings the network up and returns when there is an address or there has been none for
// Config.LeaseTimeout; leases are asked for and renewed until Close. A box without network is no
// error: it may get one later.
func Up(ctx context.Context, c Config) (*Network, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	if err := setUp("lo"); err != nil {
		return nil, err
	}
	links, err := ethernet()
	if err != nil {
		return nil, err
	}
	n := &Network{cfg: c, hostname: c.Hostname}
	if n.hostname == "" {
		var mac net.HardwareAddr
		if len(links) > 0 {
			mac = links[0].Attrs().HardwareAddr
		}
		n.hostname = hostnameFor(mac)
	}
	if err := unix.Sethostname([]byte(n.hostname)); err != nil {
		return nil, fmt.Errorf("set hostname %q: %w", n.hostname, err)
	}
	loops, stop := context.WithCancel(context.Background())
	n.cancel = stop
	if err := n.prepare(links); err != nil {
		stop()
		return nil, err
	}
	if len(n.links) == 0 {
		c.Logger.Warn("no network link found")
		return n, nil
	}
	if err := n.fixed(n.links[0]); err != nil {
		stop()
		return nil, err
	}
	if len(c.Addresses) > 0 {
		return n, nil
	}
	links = n.links
	first := make(chan struct{}, len(links))
	for _, link := range links {
		n.wg.Go(func() { n.lease(loops, link, first) })
	}
	select {
	case <-first:
	case <-time.After(c.LeaseTimeout):
		c.Logger.Warn("no DHCP answer yet, going on without network", "waited", c.LeaseTimeout)
	case <-ctx.Done():
	}
	return n, nil
}

// Hostname returns the hostname that was set.
func (n *Network) Hostname() string {
	return n.hostname
}

// Addrs returns the addresses of the box: the first one got first, then those of IPv6 that routers
// announced.
func (n *Network) Addrs() []netip.Addr {
	n.mu.Lock()
	list := append([]netip.Addr(nil), n.addrs...)
	n.mu.Unlock()
	for _, l := range n.links {
		for _, a := range announced(l) {
			if !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}

// TimeServers returns the time servers that DHCP has named.
func (n *Network) TimeServers() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.timeServers...)
}

// Close stops renewing leases. Addresses stay.
func (n *Network) Close() {
	n.cancel()
	n.wg.Wait()
}

// prepare chooses the links that are used, makes the one of a VLAN, and sets what IPv6 is to do on them
// before they are switched on.
func (n *Network) prepare(links []netlink.Link) error {
	n.links = links
	if len(n.cfg.Addresses) > 0 || n.cfg.VLAN > 0 {
		link, err := pick(links, n.cfg.Interface)
		if err != nil {
			return err
		}
		if n.cfg.VLAN > 0 {
			// Nothing of the untagged network is to be learned.
			if err := setIPv6(link.Attrs().Name, false, false); err != nil {
				return err
			}
			if link, err = addVLAN(link, n.cfg.VLAN); err != nil {
				return err
			}
		}
		n.links = []netlink.Link{link}
	}
	for _, l := range n.links {
		if err := setIPv6(l.Attrs().Name, !n.cfg.NoIPv6, !n.cfg.fixed6()); err != nil {
			return err
		}
		if err := setUp(l.Attrs().Name); err != nil {
			return err
		}
	}
	return nil
}

// fixed sets the configured addresses, routes and name servers.
func (n *Network) fixed(link netlink.Link) error {
	if len(n.cfg.Addresses) == 0 {
		return nil
	}
	if err := n.setFixed(link); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/resolv.conf", resolvConf(n.cfg.DNS), 0o644); err != nil {
		return fmt.Errorf("set name servers: %w", err)
	}
	return nil
}

// setFixed sets the configured addresses and routes.
func (n *Network) setFixed(link netlink.Link) error {
	name := link.Attrs().Name
	for _, a := range n.cfg.Addresses {
		ip := net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &ip}); err != nil {
			return fmt.Errorf("set address %s on %s: %w", a, name, err)
		}
		n.add(a.Addr())
		n.cfg.Logger.Info("network is up", "link", name, "address", a.String())
	}
	for _, g := range n.cfg.Gateways {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.AsSlice()}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("set gateway %s on %s: %w", g, name, err)
		}
	}
	return nil
}

// addVLAN makes the link of a VLAN and switches the one below on.
func addVLAN(below netlink.Link, number int) (netlink.Link, error) {
	a := netlink.NewLinkAttrs()
	a.Name = vlanName(below.Attrs().Name, number)
	a.ParentIndex = below.Attrs().Index
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: a, VlanId: number}); err != nil {
		return nil, fmt.Errorf("make VLAN %d on %s (kernel module 8021q missing?): %w", number, below.Attrs().Name, err)
	}
	if err := setUp(below.Attrs().Name); err != nil {
		return nil, err
	}
	l, err := netlink.LinkByName(a.Name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", a.Name, err)
	}
	return l, nil
}

// setIPv6 switches IPv6 on a link on or off, and whether the link listens to routers.
func setIPv6(link string, on, listen bool) error {
	dir := "/proc/sys/net/ipv6/conf/" + link
	if _, err := os.Stat(dir); err != nil {
		return nil // a kernel without IPv6 has it off
	}
	flag := map[bool]string{false: "0", true: "1"}
	for _, s := range []struct{ name, value string }{
		{"disable_ipv6", flag[!on]}, {"accept_ra", flag[listen]}, {"autoconf", flag[listen]},
	} {
		if err := os.WriteFile(filepath.Join(dir, s.name), []byte(s.value), 0o644); err != nil {
			return fmt.Errorf("set %s of %s: %w", s.name, link, err)
		}
	}
	return nil
}

// announced lists the addresses of IPv6 that a link has made of what routers announce, as far as they are
// to be used.
func announced(link netlink.Link) []netip.Addr {
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		return nil // the link has gone
	}
	var out []netip.Addr
	for _, a := range list {
		const notYet = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TEMPORARY
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.IsGlobalUnicast() && a.Flags&notYet == 0 {
			out = append(out, ip)
		}
	}
	return out
}

// add notes an address of the box; false when it was known.
func (n *Network) add(a netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, known := range n.addrs {
		if known == a {
			return false
		}
	}
	n.addrs = append(n.addrs, a)
	return true
}

// remove forgets an address of the box.
func (n *Network) remove(a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, known := range n.addrs {
		if known == a {
			n.addrs = append(n.addrs[:i], n.addrs[i+1:]...)
			return
		}
	}
}

// ethernet lists the real links of the machine, in the kernel's order.
func ethernet() ([]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var links []netlink.Link
	for _, l := range all {
		a := l.Attrs()
		if l.Type() == "device" && a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 {
			links = append(links, l)
		}
	}
	return links, nil
}

// pick chooses the link of that name, or the first.
func pick(links []netlink.Link, name string) (netlink.Link, error) {
	var have []string
	for _, l := range links {
		if name == "" || l.Attrs().Name == name {
			return l, nil
		}
		have = append(have, l.Attrs().Name)
	}
	return nil, fmt.Errorf("no link %q; there are %v", name, have)
}

// setUp switches a link on.
func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("switch link %s on: %w", name, err)
	}
	return nil
}
