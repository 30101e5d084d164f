package boot

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"millrace/appliance/system/disk"
	"millrace/appliance/system/network"
	"millrace/image/signature"
)

const (
	// dataDir is where the data disk is mounted.
	dataDir = "/data"

	// storeDir is where millraced keeps its streams unless configured otherwise.
	storeDir = dataDir + "/millrace"

	defaultPort = "4222"
)

// Settings are what a box needs to know itself, from the block `appliance { … }` of its
// configuration file.
type Settings struct {
	Network    network.Config      // without Logger
	Disks      []string            // as disk.Wish.Named
	NTP        []string            // time servers; empty: those that DHCP names, or the public pool
	NoNTP      bool                // the owner wants none
	Console    []string            // terminals that show what the console shows, such as "tty1"
	UpdateKeys []ed25519.PublicKey // who may sign images for this box; none: none is taken
}

// File is a box's configuration file. The appliance block is ours; the rest is for millraced.
type File struct {
	name     string
	text     string
	entries  []entry
	Settings Settings
}

// ParseConfig reads a configuration file in nats-server's syntax. name is used in errors, which say
// the line. Empty text is the built-in configuration: streams on the data disk, port 4222, DHCP.
func ParseConfig(name, text string) (*File, error) {
	f := &File{name: name, text: text}
	var err error
	if f.entries, err = scanConfig(text); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, names := range [][]string{{"appliance"}, {"jetstream"}, {"store_dir", "storedir"}} {
		first, _ := find(f.entries, names...)
		for _, e := range f.entries {
			if again, ok := find([]entry{e}, names...); ok && again.start != first.start {
				return nil, f.errorf(e, "given twice, first in line %d", first.line)
			}
		}
	}
	if e, ok := find(f.entries, "appliance"); ok {
		if e.kind != block {
			return nil, f.errorf(e, "want a block, appliance { … }")
		}
		if err := f.parseAppliance(e.children); err != nil {
			return nil, err
		}
	}
	return f, f.checkStore()
}

func (f *File) errorf(e entry, format string, args ...any) error {
	return fmt.Errorf("%s: line %d: %s: %s", f.name, e.line, e.key, fmt.Sprintf(format, args...))
}

// parseAppliance reads the appliance block.
func (f *File) parseAppliance(entries []entry) error {
	for _, e := range entries {
		switch strings.ToLower(e.key) {
		case "hostname":
			if e.kind != scalar || !validHostname(e.text) {
				return f.errorf(e, "want letters, digits and inner dashes, at most 63")
			}
			f.Settings.Network.Hostname = e.text
		case "disks":
			list, err := diskNames(e.list())
			if err != nil {
				return f.errorf(e, "%v", err)
			}
			f.Settings.Disks = list
		case "ntp":
			list := e.list()
			if len(list) == 0 {
				return f.errorf(e, "want time servers, or \"off\"")
			}
			if f.Settings.NoNTP = len(list) == 1 && isFalse(list[0]); !f.Settings.NoNTP {
				f.Settings.NTP = list
			}
		case "console":
			for _, name := range e.list() {
				if !validTerminal(name) {
					return f.errorf(e, "want names of terminals, such as \"tty1\" or \"ttyS1\", got %q", name)
				}
				f.Settings.Console = append(f.Settings.Console, strings.TrimPrefix(name, "/dev/"))
			}
		case "update_keys":
			keys, err := signature.ParseKeys(e.list())
			if err != nil {
				return f.errorf(e, "%v", err)
			}
			if f.Settings.UpdateKeys = keys; len(keys) == 0 {
				return f.errorf(e, "want public keys")
			}
		case "network":
			if e.kind != block {
				return f.errorf(e, "want a block, network { address: …, gateway: … }")
			}
			if err := f.parseNetwork(e.children); err != nil {
				return err
			}
		default:
			return f.errorf(e, "unknown key; an appliance block has hostname, network, ntp, disks, console and update_keys")
		}
	}
	return nil
}

// diskNames checks names of data disks and returns them without "/dev/".
func diskNames(list []string) ([]string, error) {
	if len(list) == 0 || len(list) > disk.MaxDisks {
		return nil, fmt.Errorf("want 1 to %d disks, such as \"vdb\" or a serial number, or %q, or %q", disk.MaxDisks, disk.AllDisks, disk.OnSystem)
	}
	var names []string
	for _, name := range list {
		name = strings.TrimPrefix(name, "/dev/")
		if len(list) > 1 && (name == disk.AllDisks || name == disk.OnSystem) {
			return nil, fmt.Errorf("%q stands alone", name)
		}
		if name == "" || slices.Contains(names, name) {
			return nil, fmt.Errorf("want each disk once, got %q", list)
		}
		names = append(names, name)
	}
	return names, nil
}

// parseNetwork reads the network block.
func (f *File) parseNetwork(entries []entry) error {
	n := &f.Settings.Network
	for _, e := range entries {
		var err error
		key := strings.ToLower(e.key)
		many := key == "dns" || key == "address" || key == "gateway"
		if e.kind == block || e.kind == array && !many {
			return f.errorf(e, "want one value")
		}
		switch key {
		case "interface":
			n.Interface = e.text
		case "vlan":
			n.VLAN, err = strconv.Atoi(e.text)
			if err != nil || n.VLAN < 1 || n.VLAN > 4094 {
				return f.errorf(e, "want a number from 1 to 4094, got %q", e.text)
			}
		case "ipv6":
			if n.NoIPv6 = isFalse(e.text); !n.NoIPv6 && !strings.EqualFold(e.text, "auto") {
				return f.errorf(e, "want auto or off, got %q; a fixed address stands under address", e.text)
			}
		case "address":
			n.Addresses, err = parseAll(e.list(), netip.ParsePrefix)
		case "gateway":
			n.Gateways, err = parseAll(e.list(), netip.ParseAddr)
		case "dns":
			n.DNS, err = parseAll(e.list(), netip.ParseAddr)
		default:
			return f.errorf(e, "unknown key; a network block has interface, vlan, address, gateway, dns and ipv6")
		}
		if err != nil {
			return f.errorf(e, "%v", err)
		}
	}
	return nil
}

// parseAll parses each of the texts.
func parseAll[T any](texts []string, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for _, text := range texts {
		v, err := parse(text)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// checkStore refuses a store outside the data disk: everything else on a box is memory, and what
// is acknowledged there is gone at the next boot.
func (f *File) checkStore() error {
	if js, ok := find(f.entries, "jetstream"); ok {
		if e, ok := find(js.children, "extra_dirs"); ok {
			return f.errorf(e, "the disks of a box are named by appliance { disks: … }, which makes this line itself")
		}
	}
	for _, e := range f.storeEntries() {
		if p := path.Clean(e.text); p != dataDir && !strings.HasPrefix(p, dataDir+"/") {
			return f.errorf(e, "%q is not on the data disk, which is %s", e.text, dataDir)
		}
	}
	return nil
}

// storeEntries returns the entries that set the store directory: nats-server knows it at the top
// and in the jetstream block.
func (f *File) storeEntries() []entry {
	var list []entry
	if e, ok := find(f.entries, "store_dir", "storedir"); ok {
		list = append(list, e)
	}
	if js, ok := find(f.entries, "jetstream"); ok {
		if e, ok := find(js.children, "store_dir", "storedir", "store"); ok {
			list = append(list, e)
		}
	}
	return list
}

// Store returns the directory streams are kept in; empty when the file switches streams off.
func (f *File) Store() string {
	if js, ok := find(f.entries, "jetstream"); ok && js.kind == scalar && !isTrue(js.text) {
		return ""
	}
	if list := f.storeEntries(); len(list) > 0 {
		return path.Clean(list[len(list)-1].text)
	}
	return storeDir
}

// Listen returns host and port that clients connect to. An empty host is every address of the box.
func (f *File) Listen() (host, port string) {
	port = defaultPort
	for _, e := range f.entries {
		switch strings.ToLower(e.key) {
		case "port":
			port = e.text
		case "host", "net":
			host = e.text
		case "listen":
			if h, p, err := net.SplitHostPort(e.text); err == nil {
				host, port = h, p
			} else if _, err := strconv.Atoi(e.text); err == nil {
				port = e.text
			} else {
				host = e.text
			}
		}
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		host = ""
	}
	return host, port
}

// ServerName returns the name that the file gives the server; empty: none.
func (f *File) ServerName() string {
	e, _ := find(f.entries, "server_name")
	return e.text
}

// Cluster returns the name of the cluster that the file puts the server into; empty: none, or one
// without a name.
func (f *File) Cluster() string {
	c, _ := find(f.entries, "cluster")
	e, _ := find(c.children, "name")
	return e.text
}

// edit replaces text[start:end].
type edit struct {
	start, end int
	with       string
}

// Millraced returns the configuration for millraced. The appliance block is blanked out and what is
// missing is added where it moves no line, so that millraced's errors name the lines of the owner's
// file. withStore is false when there is no data disk: streams are switched off then, since memory
// would lose what it acknowledged. name is what the server is called unless the file says so. extra are folders
// on further data disks.
func (f *File) Millraced(withStore bool, name string, extra ...string) []byte {
	var edits []edit
	var add []string
	blank := func(e entry) {
		edits = append(edits, edit{e.start, e.end, blanks(f.text[e.start:e.end])})
	}
	if e, ok := find(f.entries, "appliance"); ok {
		blank(e)
	}
	js, hasJS := find(f.entries, "jetstream")
	var more []string // of the jetstream block
	if len(f.storeEntries()) == 0 {
		more = append(more, fmt.Sprintf("store_dir: %q", storeDir))
	}
	if len(extra) > 0 {
		more = append(more, fmt.Sprintf("extra_dirs: [%s]", quoted(extra)))
	}
	inBlock := strings.Join(more, ", ")
	switch {
	case !withStore:
		if hasJS {
			blank(js)
		}
		add = append(add, "jetstream: disabled")
	case !hasJS && inBlock == "":
		add = append(add, "jetstream: enabled")
	case !hasJS:
		add = append(add, fmt.Sprintf("jetstream { %s }", inBlock))
	case inBlock == "":
	case js.kind == block:
		edits = append(edits, edit{js.value + 1, js.value + 1, fmt.Sprintf(" %s,", inBlock)})
	case isTrue(js.text):
		edits = append(edits, edit{js.value, js.end, fmt.Sprintf("{ %s }", inBlock)})
	}
	if f.ServerName() == "" && name != "" {
		add = append(add, fmt.Sprintf("server_name: %q", name))
	}
	if _, ok := find(f.entries, "listen", "port", "host", "net"); !ok {
		add = append(add, fmt.Sprintf("listen: %q", "0.0.0.0:"+defaultPort))
	}

	slices.SortFunc(edits, func(a, b edit) int { return a.start - b.start })
	var out bytes.Buffer
	pos := 0
	for _, e := range edits {
		out.WriteString(f.text[pos:e.start] + e.with)
		pos = e.end
	}
	out.WriteString(f.text[pos:])
	for _, line := range add {
		if out.Len() > 0 && !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
			out.WriteByte('\n')
		}
		out.WriteString(line + "\n")
	}
	return out.Bytes()
}

// quoted lists strings as a configuration file has them.
func quoted(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, strconv.Quote(s))
	}
	return strings.Join(out, ", ")
}

// blanks keeps the line ends of a text and nothing else.
func blanks(text string) string {
	return strings.Repeat("\n", strings.Count(text, "\n"))
}

// isTrue reports whether a scalar switches something on.
func isTrue(text string) bool {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "enabled", "enable":
		return true
	}
	return false
}

// isFalse reports whether a word switches something off.
func isFalse(text string) bool {
	switch strings.ToLower(text) {
	case "false", "no", "off", "none", "disabled":
		return true
	}
	return false
}

// validTerminal checks the name of a terminal in /dev.
func validTerminal(name string) bool {
	name = strings.TrimPrefix(name, "/dev/")
	rest, ok := strings.CutPrefix(name, "tty")
	if !ok {
		rest, ok = strings.CutPrefix(name, "hvc")
	}
	for _, c := range []byte(rest) {
		ok = ok && (c >= '0' && c <= '9' || c >= 'A' && c <= 'Z')
	}
	return ok
}

// validHostname checks one label of a host name (RFC 1123).
func validHostname(name string) bool {
	if name == "" || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}
