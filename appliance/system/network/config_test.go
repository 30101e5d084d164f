package network

import (
	"log/slog"
	"net/netip"
	"testing"
)

func TestConfigValidate(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	four, six := netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("2001:db8::5/64")
	addrs := func(a ...netip.Prefix) []netip.Prefix { return a }
	ips := func(texts ...string) (list []netip.Addr) {
		for _, s := range texts {
			list = append(list, netip.MustParseAddr(s))
		}
		return list
	}
	for _, tt := range []struct {
		name string
		c    Config
		ok   bool
	}{
		{"DHCP", Config{Logger: logger}, true},
		{"DHCP on a VLAN", Config{Logger: logger, VLAN: 12, Interface: "eth1"}, true},
		{"fixed", Config{Logger: logger, Addresses: addrs(four), Gateways: ips("10.0.0.1"), DNS: ips("10.0.0.1"), Interface: "eth0"}, true},
		{"both kinds", Config{Logger: logger, Addresses: addrs(four, six), Gateways: ips("10.0.0.1", "fe80::1")}, true},
		{"IPv6 gateway in the network", Config{Logger: logger, Addresses: addrs(six), Gateways: ips("2001:db8::1")}, true},
		{"no IPv6", Config{Logger: logger, NoIPv6: true}, true},
		{"no logger", Config{}, false},
		{"gateway outside", Config{Logger: logger, Addresses: addrs(four), Gateways: ips("10.0.1.1")}, false},
		{"gateway on the link without IPv6 address", Config{Logger: logger, Addresses: addrs(four), Gateways: ips("fe80::1")}, false},
		{"two gateways", Config{Logger: logger, Addresses: addrs(four), Gateways: ips("10.0.0.1", "10.0.0.2")}, false},
		{"gateway alone", Config{Logger: logger, Gateways: ips("10.0.0.1")}, false},
		{"dns alone", Config{Logger: logger, DNS: ips("10.0.0.1")}, false},
		{"interface alone", Config{Logger: logger, Interface: "eth1"}, false},
		{"VLAN too large", Config{Logger: logger, VLAN: 4095}, false},
		{"IPv6 address, IPv6 off", Config{Logger: logger, Addresses: addrs(six), NoIPv6: true}, false},
	} {
		if err := tt.c.validate(); (err == nil) != tt.ok {
			t.Errorf("%s: got error %v", tt.name, err)
		}
	}
}

func TestHostnameFor(t *testing.T) {
	if got := hostnameFor([]byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}); got != "millrace-123456" {
		t.Errorf("got %q", got)
	}
	if got := hostnameFor(nil); got != "millrace" {
		t.Errorf("without hardware address: got %q", got)
	}
}

func TestResolvConf(t *testing.T) {
	got := string(resolvConf([]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")}))
	if want := "nameserver 10.0.0.1\nnameserver fe80::1\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
