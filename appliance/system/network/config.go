package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Config says how the network is set up.
type Config struct {
	// Hostname of the box; empty makes one from the first link's hardware address.
	Hostname string

	// Interface is the link that is used with fixed addresses or a VLAN, such as "eth0"; empty is the
	// first one.
	Interface string

	// VLAN is the number of the network on Interface (IEEE 802.1Q) that the box is in, 1 to 4094; 0 is
	// the untagged one. With a number no other link is used.
	VLAN int

	// Addresses are fixed addresses with prefix lengths, of IPv4 and IPv6. Without one of IPv4, DHCP is
	// asked: on all links, or on the VLAN; with addresses of IPv6 only, it is not.
	Addresses []netip.Prefix
	Gateways  []netip.Addr // default gateways, one of IPv4 and one of IPv6 at most; each needs an address
	DNS       []netip.Addr // name servers; need an address

	// NoIPv6 switches IPv6 off. Otherwise links take addresses and routes that routers announce (SLAAC),
	// unless there is a fixed address of IPv6.
	NoIPv6 bool

	Logger *slog.Logger

	// LeaseTimeout is how long Up waits for the first DHCP answer; default 15 s. Asking goes on
	// after it.
	LeaseTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.LeaseTimeout == 0 {
		c.LeaseTimeout = 15 * time.Second
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Logger == nil:
		return errors.New("logger must be set")
	case c.VLAN < 0 || c.VLAN > 4094:
		return fmt.Errorf("vlan %d, want 1 to 4094", c.VLAN)
	case len(c.Addresses) == 0 && (len(c.Gateways) > 0 || len(c.DNS) > 0):
		return errors.New("gateway and dns need an address")
	case len(c.Addresses) == 0 && c.VLAN == 0 && c.Interface != "":
		return errors.New("interface needs an address or a vlan")
	}
	for _, a := range c.Addresses {
		if a.Addr().Is6() && c.NoIPv6 {
			return fmt.Errorf("address %s, but IPv6 is off", a)
		}
	}
	families := map[bool]bool{}
	for _, g := range c.Gateways {
		if families[g.Is4()] {
			return fmt.Errorf("gateway %s is the second of its kind", g)
		}
		families[g.Is4()] = true
		// A router of IPv6 is mostly named by its address on the link.
		reached := g.Is6() && g.IsLinkLocalUnicast() && c.fixed6()
		for _, a := range c.Addresses {
			reached = reached || a.Contains(g)
		}
		if !reached {
			return fmt.Errorf("gateway %s is not in the network of %v", g, c.Addresses)
		}
	}
	return nil
}

// fixed6 reports whether there is a fixed address of IPv6.
func (c Config) fixed6() bool {
	return slices.ContainsFunc(c.Addresses, func(a netip.Prefix) bool { return a.Addr().Is6() })
}

// resolvConf is the resolver configuration for fixed name servers.
func resolvConf(dns []netip.Addr) []byte {
	var b strings.Builder
	for _, a := range dns {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return []byte(b.String())
}

// hostnameFor makes a hostname from a hardware address.
func hostnameFor(mac []byte) string {
	if len(mac) < 3 {
		return "millrace"
	}
	return fmt.Sprintf("millrace-%x", mac[len(mac)-3:])
}

// vlanName is the name of the link of a VLAN. The kernel takes 15 bytes; a name that would be longer
// leaves the one below out.
func vlanName(below string, number int) string {
	if name := fmt.Sprintf("%s.%d", below, number); len(name) <= 15 {
		return name
	}
	return fmt.Sprintf("vlan%d", number)
}
