package boot

import (
	"fmt"
	"strings"
	"testing"
)

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := ParseConfig("x.conf", text)
	if err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return f
}

func TestFileMillraced(t *testing.T) {
	const store, listen = `jetstream { store_dir: "/data/millrace" }` + "\n", `listen: "0.0.0.0:4222"` + "\n"
	for _, tt := range []struct {
		name, text string
		noDisk     bool
		want       string
	}{
		{"built-in", "", false, store + listen},
		{"built-in, no disk", "", true, "jetstream: disabled\n" + listen},
		{"port given", "port: 4333", false, "port: 4333\n" + store},
		{"block without store", "listen: 4222\njetstream {\n  max_file: 1G\n}\n", false,
			"listen: 4222\njetstream { store_dir: \"/data/millrace\",\n  max_file: 1G\n}\n"},
		{"block with store", "listen: 4222\njetstream { store_dir: /data/mine }\n", false,
			"listen: 4222\njetstream { store_dir: /data/mine }\n"},
		{"block without disk", "listen: 4222\njetstream {\n  store_dir: /data/mine\n}\nx: 1\n", true,
			"listen: 4222\n\n\n\nx: 1\njetstream: disabled\n"},
		{"enabled", "listen: 4222, jetstream: enabled # yes\n", false,
			"listen: 4222, jetstream: { store_dir: \"/data/millrace\" } # yes\n"},
		{"switched off", "listen: 4222\njetstream: false\n", false, "listen: 4222\njetstream: false\n"},
		{"top-level store", "listen: 4222\nstore_dir: '/data/x'\n", false,
			"listen: 4222\nstore_dir: '/data/x'\njetstream: enabled\n"},
		{"appliance block", "listen: 4222\nappliance {\n  hostname: a\n}\njetstream: off\n", false,
			"listen: 4222\n\n\n\njetstream: off\n"},
		{"names in other blocks", "listen: 4222\naccounts { A { jetstream: enabled } }\n", false,
			"listen: 4222\naccounts { A { jetstream: enabled } }\n" + store},
		{"names in comments", "listen: 4222\n# jetstream { }\n// appliance { x: 1 }\n", false,
			"listen: 4222\n# jetstream { }\n// appliance { x: 1 }\n" + store},
		{"names in strings", "listen: 4222\nserver_name: \"jetstream { } appliance\"", false,
			"listen: 4222\nserver_name: \"jetstream { } appliance\"\n" + store},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := parse(t, tt.text)
			got := string(f.Millraced(!tt.noDisk, ""))
			if got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
			if _, err := scanConfig(got); err != nil {
				t.Errorf("result does not read back: %v", err)
			}
		})
	}
}

func TestParseConfigSettings(t *testing.T) {
	f := parse(t, `
listen: "10.0.0.5:4300"
appliance {
  hostname: box-1   # a name
  disks: ["/dev/vdb"]
  network {
    interface = eth1; address = 10.0.0.5/24
    gateway: "10.0.0.1", dns: [10.0.0.1, "9.9.9.9"]
  }
}
`)
	n := f.Settings.Network
	got := fmt.Sprint(n.Hostname, f.Settings.Disks, n.Interface, n.Addresses, n.Gateways, n.DNS)
	if want := "box-1[vdb]eth1[10.0.0.5/24] [10.0.0.1] [10.0.0.1 9.9.9.9]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if host, port := f.Listen(); host != "10.0.0.5" || port != "4300" {
		t.Errorf("listen %s %s, want 10.0.0.5 4300", host, port)
	}
}

// Folders on further data disks are added to the jetstream block, wherever the owner has it.
func TestFileMillracedExtraDirs(t *testing.T) {
	const listen = "listen: 4222\n"
	for text, want := range map[string]string{
		"":                                    `jetstream { store_dir: "/data/millrace", extra_dirs: ["/disks/2/m", "/disks/3/m"] }`,
		"jetstream: enabled":                  `jetstream: { store_dir: "/data/millrace", extra_dirs: ["/disks/2/m", "/disks/3/m"] }`,
		"jetstream { domain: d }":             `jetstream { store_dir: "/data/millrace", extra_dirs: ["/disks/2/m", "/disks/3/m"], domain: d }`,
		"jetstream { store: /data/x }":        `jetstream { extra_dirs: ["/disks/2/m", "/disks/3/m"], store: /data/x }`,
		"store_dir: /data/x\njetstream: true": "store_dir: /data/x\n" + `jetstream: { extra_dirs: ["/disks/2/m", "/disks/3/m"] }`,
		"store_dir: /data/x":                  "store_dir: /data/x\n" + `jetstream { extra_dirs: ["/disks/2/m", "/disks/3/m"] }`,
		"jetstream: off":                      "jetstream: off",
	} {
		if got := string(parse(t, listen+text).Millraced(true, "", "/disks/2/m", "/disks/3/m")); got != listen+want && got != listen+want+"\n" {
			t.Errorf("%q became\n%s\nwant\n%s", text, got, listen+want)
		}
	}
}

// The name of the box is the server's, unless the file has one.
func TestFileMillracedName(t *testing.T) {
	for text, want := range map[string]string{
		"listen: 1\njetstream: off\n":                    "listen: 1\njetstream: off\nserver_name: \"box-1\"\n",
		"listen: 1\njetstream: off\nServer_Name: mine\n": "listen: 1\njetstream: off\nServer_Name: mine\n",
	} {
		if got := string(parse(t, text).Millraced(true, "box-1")); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
	f := parse(t, "server_name: a\ncluster { name: east, port: 6222 }")
	if f.ServerName() != "a" || f.Cluster() != "east" {
		t.Errorf("server %q of cluster %q", f.ServerName(), f.Cluster())
	}
}

func TestParseConfigAppliance(t *testing.T) {
	f := parse(t, `appliance { disks: WD-1234, ntp: [a.example, "10.0.0.1"], console: ["/dev/tty1", ttyS1, hvc0], update_keys: "ed25519:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" }`)
	s := f.Settings
	if got, want := fmt.Sprint(s.Disks, s.NTP, s.NoNTP, s.Console, len(s.UpdateKeys), s.UpdateKeys[0][31]), "[WD-1234] [a.example 10.0.0.1] false [tty1 ttyS1 hvc0] 1 31"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if s := parse(t, "appliance { ntp: off }").Settings; !s.NoNTP || len(s.NTP) > 0 {
		t.Errorf("ntp off: %+v", s)
	}
}

func TestParseConfigNetwork(t *testing.T) {
	f := parse(t, `appliance { network {
		interface: eth1, vlan: 12, ipv6: off
		address: ["10.0.0.5/24", "2001:db8::5/64"], gateway: ["10.0.0.1", "fe80::1"] } }`)
	n := f.Settings.Network
	if got, want := fmt.Sprint(n.Interface, n.VLAN, n.NoIPv6, n.Addresses, n.Gateways),
		"eth112 true [10.0.0.5/24 2001:db8::5/64] [10.0.0.1 fe80::1]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if parse(t, "appliance { network { ipv6: auto } }").Settings.Network.NoIPv6 {
		t.Error("ipv6: auto switches it off")
	}
}

func TestFileListen(t *testing.T) {
	for text, want := range map[string]string{
		"":                      ":4222",
		"port: 4300":            ":4300",
		"listen: 4300":          ":4300",
		"listen: 0.0.0.0:4300":  ":4300",
		"listen: \"[::]:4300\"": ":4300",
		"host: 10.0.0.5":        "10.0.0.5:4222",
		"net: 10.0.0.5, port 9": "10.0.0.5:9",
	} {
		host, port := parse(t, text).Listen()
		if got := host + ":" + port; got != want {
			t.Errorf("%q: listens at %s, want %s", text, got, want)
		}
	}
}

func TestFileStore(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "/data/millrace",
		"jetstream: off":                       "",
		"jetstream: enabled":                   "/data/millrace",
		"jetstream { StoreDir: \"/data/a/\" }": "/data/a",
		"store_dir: /data/b":                   "/data/b",
	} {
		if got := parse(t, text).Store(); got != want {
			t.Errorf("%q: store %q, want %q", text, got, want)
		}
	}
}

func TestParseConfigErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"a: 1\njetstream {\n", "x.conf: line 3: a block is not closed with }"},
		{"a: [1, 2", "x.conf: line 1: an array is not closed with ]"},
		{"a: 1\nb: \"x\n\n", "x.conf: line 2: a string is not closed with \""},
		{"a: (\n x\n", "x.conf: line 1: a text is not closed with ) on a line of its own"},
		{"a: 1\n}\n", "x.conf: line 2: expected a key, found '}'"},
		{"{ \"port\": 4222 }", "x.conf: line 1: expected a key, found '{'"},
		{"a: 1\ninclude ./other.conf\n", "x.conf: line 2: include: a box has one configuration file"},
		{"a:", "x.conf: line 1: key \"a\" has no value"},
		{"x: " + strings.Repeat("[", 100), "x.conf: line 1: blocks are nested deeper than 64"},
		{"\nappliance: yes", "x.conf: line 2: appliance: want a block"},
		{"appliance {\n  hostname: -x\n}", "x.conf: line 2: hostname: want letters"},
		{"appliance {\n  disk: vdb\n}", "x.conf: line 2: disk: unknown key"},
		{"appliance { disks: [vdb, all] }", `x.conf: line 1: disks: "all" stands alone`},
		{"appliance { disks: [vdb, /dev/vdb] }", "x.conf: line 1: disks: want each disk once"},
		{"appliance { disks { a: 1 } }", "x.conf: line 1: disks: want 1 to 16 disks"},
		{"jetstream { extra_dirs: [/x] }", "x.conf: line 1: extra_dirs: the disks of a box"},
		{"appliance { ntp: [] }", "x.conf: line 1: ntp: want time servers"},
		{"appliance { console: \"../sda\" }", "x.conf: line 1: console: want names of terminals"},
		{"appliance { update_keys: [K1] }", "x.conf: line 1: update_keys: public key: want ed25519:BASE64 (number 1 of 1)"},
		{"appliance { update_keys { } }", "x.conf: line 1: update_keys: want public keys"},
		{"appliance { network: dhcp }", "x.conf: line 1: network: want a block"},
		{"appliance {\n network {\n  address: 10.0.0.5\n}}", "x.conf: line 3: address: netip.ParsePrefix"},
		{"appliance { network { vlan: 5000 } }", "x.conf: line 1: vlan: want a number"},
		{"appliance { network { interface: [a, b] } }", "x.conf: line 1: interface: want one value"},
		{"appliance { network { ipv6: \"2001:db8::1/64\" } }", "x.conf: line 1: ipv6: want auto or off"},
		{"appliance { network { dns: [x] } }", "x.conf: line 1: dns: ParseAddr"},
		{"appliance { network { gw: 1 } }", "x.conf: line 1: gw: unknown key"},
		{"jetstream {\n store_dir: /var/x\n}", "x.conf: line 2: store_dir: \"/var/x\" is not on the data disk"},
		{"jetstream: off\nx: 1\nJetStream {}", "x.conf: line 3: JetStream: given twice, first in line 1"},
		{"store_dir: /data/../tmp", "x.conf: line 1: store_dir: \"/data/../tmp\" is not on the data disk"},
	} {
		_, err := ParseConfig("x.conf", tt.text)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q:\n got error %v\nwant %s…", tt.text, err, tt.want)
		}
	}
}

func TestScanConfigPlaces(t *testing.T) {
	const text = "a 1\n\"quoted key\" = 'it\\'; b{c:[1,{d:2},\"x\\\"y\"] e: (\n many )\n lines\n)\n}\nf:g/h//i"
	list, err := scanConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	var walk func([]entry)
	walk = func(list []entry) {
		for _, e := range list {
			got = append(got, fmt.Sprintf("%d|%s|%s|%q", e.line, e.key, text[e.value:e.end], e.text))
			walk(e.children)
		}
	}
	walk(list)
	want := []string{
		`1|a|1|"1"`,
		`2|quoted key|'it\'|"it\\"`,
		"2|b|{c:[1,{d:2},\"x\\\"y\"] e: (\n many )\n lines\n)\n}|\"\"",
		`2|c|[1,{d:2},"x\"y"]|""`,
		"2|e|(\n many )\n lines\n)|\"\\n many )\\n lines\\n\"",
		`7|f|g/h//i|"g/h//i"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if items := list[2].children[0].items; len(items) != 2 || items[1] != `x"y` {
		t.Errorf("array items %q", items)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		"", "a: 1", "jetstream { max_file: 1G }", "appliance { network { dns: [1.1.1.1] } }",
		"x: (\n a\n)\n", "a: 'b' # c\n", "jetstream{", "\"", "a:[[{b:c}]]", "store_dir: /data",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := ParseConfig("x.conf", text)
		if err != nil {
			return
		}
		for _, withStore := range []bool{true, false} {
			out := string(file.Millraced(withStore, "box-1"))
			again, err := ParseConfig("y.conf", out)
			if err != nil {
				t.Fatalf("%q became %q, which does not read back: %v", text, out, err)
			}
			// The appliance block must be gone: millraced is not to see it.
			if _, ok := find(again.entries, "appliance"); ok {
				t.Fatalf("%q became %q, which still has the appliance block", text, out)
			}
			if !withStore && again.Store() != "" {
				t.Fatalf("without data disk %q became %q, which has streams on", text, out)
			}
			if withStore && again.Store() != file.Store() {
				t.Fatalf("%q stores in %q, but became %q, which stores in %q", text, file.Store(), out, again.Store())
			}
		}
	})
}
