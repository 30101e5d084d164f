package network

import (
	"log/slog"
	"net/netip"
	"testing"
)

func TestConfigValidate(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	addr, gw := netip.MustParsePrefix("10.0.0.5/24"), netip.MustParseAddr("10.0.0.1")
	for _, tt := range []struct {
		name string
		c    Config
		ok   bool
	}{
		{"DHCP", Config{Logger: logger}, true},
		{"fixed", Config{Logger: logger, Address: addr, Gateway: gw, DNS: []netip.Addr{gw}, Interface: "eth0"}, true},
		{"no logger", Config{}, false},
		{"gateway outside", Config{Logger: logger, Address: addr, Gateway: netip.MustParseAddr("10.0.1.1")}, false},
		{"gateway alone", Config{Logger: logger, Gateway: gw}, false},
		{"dns alone", Config{Logger: logger, DNS: []netip.Addr{gw}}, false},
		{"interface alone", Config{Logger: logger, Interface: "eth1"}, false},
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
