package qemu

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"millrace/board"
	"millrace/image"
	"millrace/image/flash"
	"millrace/image/signature"
	"millrace/tools/qemu/vm"
)

const (
	// maxMachines bounds a fleet: numbers become parts of addresses.
	maxMachines = 32

	// systemDiskBytes is the size of a machine's system disk; the file is sparse. What is behind the image
	// becomes the state partition.
	systemDiskBytes = 1 << 30

	routePort = 6222
)

// machine is one box of a fleet. Numbers go from 1, storage nodes first.
type machine struct {
	number  int
	name    string // "n1", "r1"
	storage bool
	address netip.Addr // among the boxes
	url     string     // on this machine
	cfg     vm.Config

	mu sync.Mutex
	vm *vm.VM // nil: switched off
}

// fleetConfig says what machines there are.
type fleetConfig struct {
	Board     board.Board
	Image     string // made by tools/mkimage, without configuration
	Dir       string // of disks, configurations and console logs
	Nodes     int    // machines with a data disk
	Routers   int    // machines without
	FirstPort int    // NATS port of the first machine on this one; 0: free ones
	DataBytes int64
	MemoryMiB int
	CPUs      int
	Direct    bool              // without firmware
	Fresh     bool              // forget what is on the disks of an earlier fleet
	ConfigDir string            // with a NAME.conf for each machine; empty: made here
	UpdateKey ed25519.PublicKey // who may sign updates of the machines; nil: none are taken
	Logger    *slog.Logger
}

// fleet is machines on one switch.
type fleet struct {
	cfg      fleetConfig
	net      *vm.Switch
	gateway  *vm.Gateway
	machines []*machine
	other    []string // machines whose system disks were made of another image than Image
}

// newFleet makes disks and configurations. Nothing runs yet.
func newFleet(c fleetConfig) (*fleet, error) {
	if c.Nodes < 0 || c.Routers < 0 || c.Nodes+c.Routers < 1 || c.Nodes+c.Routers > maxMachines {
		return nil, fmt.Errorf("%d nodes and %d routers: want 1 to %d machines", c.Nodes, c.Routers, maxMachines)
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder of the fleet: %w", err)
	}
	digest, err := digestOf(c.Image)
	if err != nil {
		return nil, err
	}
	network, err := vm.NewSwitch()
	if err != nil {
		return nil, err
	}
	f := &fleet{cfg: c, net: network}
	for i := range c.Nodes + c.Routers {
		m := &machine{number: i + 1, name: fmt.Sprintf("n%d", i+1), storage: i < c.Nodes, address: addressOf(i + 1)}
		if !m.storage {
			m.name = fmt.Sprintf("r%d", i+1-c.Nodes)
		}
		f.machines = append(f.machines, m)
	}
	for _, m := range f.machines {
		if err := f.prepare(m, digest); err != nil {
			return nil, errors.Join(fmt.Errorf("machine %s: %w", m.name, err), network.Close())
		}
	}
	if err := f.openPorts(); err != nil {
		return nil, errors.Join(err, network.Close())
	}
	return f, nil
}

// openPorts makes the machines' NATS ports reachable here. They stay the same when a machine is started
// anew, so clients come back to it.
func (f *fleet) openPorts() error {
	socket, err := f.net.Plug("gateway")
	if err != nil {
		return err
	}
	var forwards []vm.GatewayForward
	for _, m := range f.machines {
		port := 0
		if f.cfg.FirstPort != 0 {
			port = f.cfg.FirstPort + m.number - 1
		}
		forwards = append(forwards, vm.GatewayForward{Host: port, Guest: m.address, Port: natsPort})
	}
	if f.gateway, err = vm.StartGateway(f.cfg.Board, socket, netip.PrefixFrom(addressOf(0), 24), addressOf(254), forwards); err != nil {
		return err
	}
	for _, m := range f.machines {
		m.url = fmt.Sprintf("nats://127.0.0.1:%d", f.gateway.Port(m.address, natsPort))
	}
	return nil
}

// addressOf is the address of a machine among the others.
func addressOf(number int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(number)}) }

// path is a file of a machine.
func (f *fleet) path(m *machine, ending string) string {
	return filepath.Join(f.cfg.Dir, m.name+ending)
}

// prepare makes the disks of a machine, or keeps those of an earlier fleet. digest is that of the image.
func (f *fleet) prepare(m *machine, digest string) error {
	c := f.cfg
	socket, err := f.net.Plug(m.name)
	if err != nil {
		return err
	}
	system, madeOf := f.path(m, ".system.img"), f.path(m, ".image.sha256")
	if c.Fresh {
		for _, old := range []string{system, f.path(m, ".data.img")} {
			if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	conf := []byte(f.config(m))
	if c.ConfigDir != "" {
		if conf, err = os.ReadFile(filepath.Join(c.ConfigDir, m.name+".conf")); err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
	}
	if _, err := os.Stat(system); errors.Is(err, fs.ErrNotExist) {
		if err := flashCopy(c.Image, system, conf); err != nil {
			return err
		}
		if err := os.WriteFile(madeOf, []byte(digest), 0o644); err != nil {
			return fmt.Errorf("note the image: %w", err)
		}
	} else if err != nil {
		return err
	} else if was, err := os.ReadFile(madeOf); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read what image it was made of: %w", err)
	} else if string(was) != digest {
		f.other = append(f.other, m.name)
	}
	m.cfg = vm.Config{
		Board: c.Board, Image: c.Image, SystemDisk: system, Direct: c.Direct,
		DataBytes: c.DataBytes, MemoryMiB: c.MemoryMiB, CPUs: c.CPUs, Reboots: true,
		Network: &vm.Network{
			Socket: socket,
			MAC:    net.HardwareAddr{0x52, 0x54, 0, 0x4d, 0x52, byte(m.number)}, // 52:54:00 is QEMU's
		},
		ConsoleLog: f.path(m, ".console.log"),
		Logger:     c.Logger,
	}
	if m.storage {
		m.cfg.DataDisk = f.path(m, ".data.img")
	}
	return nil
}

// digestOf is the SHA-256 of a file, in hexadecimal.
func digestOf(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), nil
}

// config is a machine's configuration: fixed addresses, and routes to all others. Clients need no credentials; user
// admin with that password is of the system account, for reports and `millrace node`. Ports are on this machine only, and
// clients are not told the addresses behind them, which are not.
func (f *fleet) config(m *machine) string {
	var routes []string
	for _, o := range f.machines {
		if o != m {
			routes = append(routes, fmt.Sprintf("\"nats://%s:%d\"", o.address, routePort))
		}
	}
	updates := ""
	if f.cfg.UpdateKey != nil {
		updates = fmt.Sprintf("\n  update_keys: [ %q ]", signature.FormatKey(f.cfg.UpdateKey))
	}
	return fmt.Sprintf(`server_name: %q
listen: "0.0.0.0:%d"
cluster { name: fleet, listen: "%s:%d", no_advertise: true, routes: [ %s ] }
accounts { $SYS { users: [ { user: admin, password: admin } ] } }
appliance {
  hostname: %q
  ntp: "off"
  network { address: "%s/24" }%s
}
`, m.name, natsPort, m.address, routePort, strings.Join(routes, ", "), m.name, m.address, updates)
}

// flashCopy makes a system disk with a configuration, as flashing does.
func flashCopy(img, to string, conf []byte) error {
	tmp := to + ".tmp"
	if err := copySparse(img, tmp); err != nil {
		return errors.Join(fmt.Errorf("copy image: %w", err), removeIf(tmp))
	}
	if err := image.SetConfig(tmp, conf); err != nil {
		return errors.Join(err, removeIf(tmp))
	}
	if err := errors.Join(os.Truncate(tmp, systemDiskBytes), os.Rename(tmp, to)); err != nil {
		return errors.Join(fmt.Errorf("make system disk: %w", err), removeIf(tmp))
	}
	return nil
}

// removeIf removes a file that may be there.
func removeIf(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// copySparse copies a file and leaves out blocks of zeros.
func copySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = flash.CopySparse(out, in)
	return errors.Join(err, out.Close())
}

// find returns the machine of a name or number.
func (f *fleet) find(name string) (*machine, error) {
	for _, m := range f.machines {
		if m.name == name || fmt.Sprint(m.number) == name {
			return m, nil
		}
	}
	var names []string
	for _, m := range f.machines {
		names = append(names, m.name)
	}
	return nil, fmt.Errorf("no machine %q; there are %s", name, strings.Join(names, ", "))
}

// start switches a machine on and waits until the box says that it serves.
func (m *machine) start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running() {
		return fmt.Errorf("%s is on", m.name)
	}
	v, err := vm.Boot(ctx, m.cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	m.vm = v
	return nil
}

// running reports whether the machine is on; m.mu is held.
func (m *machine) running() bool {
	if m.vm == nil {
		return false
	}
	select {
	case <-m.vm.Done():
		return false
	default:
		return true
	}
}

// cut cuts the machine's power.
func (m *machine) cut() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.running() {
		return fmt.Errorf("%s is off", m.name)
	}
	m.vm.Kill()
	return nil
}

// powerDown presses the machine's power button and waits until it is off.
func (m *machine) powerDown(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.running() {
		return nil
	}
	if err := m.vm.PowerDown(ctx); err != nil {
		m.vm.Kill()
		return fmt.Errorf("%s: %w", m.name, err)
	}
	return nil
}

// status is one line about the machine.
func (m *machine) status() string {
	if !m.mu.TryLock() {
		return fmt.Sprintf("%d\t%s\t%s\tstarting or stopping\t-", m.number, m.name, m.address)
	}
	defer m.mu.Unlock()
	if !m.running() {
		return fmt.Sprintf("%d\t%s\t%s\toff\t-", m.number, m.name, m.address)
	}
	return fmt.Sprintf("%d\t%s\t%s\ton\t%s", m.number, m.name, m.address, m.url)
}

// start starts machines, parallel many at a time.
func start(ctx context.Context, machines []*machine, parallel int) error {
	errs := make([]error, len(machines))
	gate := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			errs[i] = m.start(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// down powers all machines off.
func (f *fleet) down(ctx context.Context) error {
	errs := make([]error, len(f.machines))
	var wg sync.WaitGroup
	for i, m := range f.machines {
		wg.Go(func() { errs[i] = m.powerDown(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// close ends all that still runs.
func (f *fleet) close() error {
	for _, m := range f.machines {
		m.mu.Lock()
		if m.vm != nil {
			m.vm.Kill()
		}
		m.mu.Unlock()
	}
	return errors.Join(f.gateway.Close(), f.net.Close())
}
