package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// Config says how the network is set up.
type Config struct {
	// Hostname of the box; empty makes one from the first link's hardware address.
	Hostname string

	// Interface is the link that gets Address, such as "eth0"; empty is the first one.
	Interface string

	// Address is a fixed address with prefix length; the zero value asks DHCP on all links.
	Address netip.Prefix
	Gateway netip.Addr   // default gateway for Address; the zero value sets none
	DNS     []netip.Addr // name servers for Address

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
	case !c.Address.IsValid() && (c.Gateway.IsValid() || len(c.DNS) > 0 || c.Interface != ""):
		return errors.New("interface, gateway and dns need an address")
	case c.Address.IsValid() && c.Gateway.IsValid() && !c.Address.Contains(c.Gateway):
		return fmt.Errorf("gateway %s is not in the network of %s", c.Gateway, c.Address)
	}
	return nil
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
