package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
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

	mu    sync.Mutex
	addrs []netip.Addr // in the order they were got
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
	if c.Address.IsValid() {
		if err := n.static(links); err != nil {
			stop()
			return nil, err
		}
		return n, nil
	}
	if len(links) == 0 {
		c.Logger.Warn("no network link found")
		return n, nil
	}
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

// Addrs returns the addresses of the box, the first one got first.
func (n *Network) Addrs() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]netip.Addr(nil), n.addrs...)
}

// Close stops renewing leases. Addresses stay.
func (n *Network) Close() {
	n.cancel()
	n.wg.Wait()
}

// static sets the configured address.
func (n *Network) static(links []netlink.Link) error {
	link, err := pick(links, n.cfg.Interface)
	if err != nil {
		return err
	}
	name := link.Attrs().Name
	if err := setUp(name); err != nil {
		return err
	}
	ip := net.IPNet{IP: n.cfg.Address.Addr().AsSlice(), Mask: net.CIDRMask(n.cfg.Address.Bits(), n.cfg.Address.Addr().BitLen())}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &ip}); err != nil {
		return fmt.Errorf("set address %s on %s: %w", n.cfg.Address, name, err)
	}
	if n.cfg.Gateway.IsValid() {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: n.cfg.Gateway.AsSlice()}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("set gateway %s on %s: %w", n.cfg.Gateway, name, err)
		}
	}
	if err := os.WriteFile("/etc/resolv.conf", resolvConf(n.cfg.DNS), 0o644); err != nil {
		return fmt.Errorf("set name servers: %w", err)
	}
	n.add(n.cfg.Address.Addr())
	n.cfg.Logger.Info("network is up", "link", name, "address", n.cfg.Address.String())
	return nil
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
