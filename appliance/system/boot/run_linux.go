package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"

	"millrace/appliance/system/disk"
	"millrace/appliance/system/network"
)

const (
	millracedPath = "/bin/millraced"
	espDir        = "/boot"
	espConfig     = "config/millrace.conf"

	// runConfig is what millraced is started with, in memory. It has the name of the owner's file on
	// the EFI system partition, whose lines millraced's errors name.
	runConfig = "/config/millrace.conf"

	// maxFiles is the number of open files millraced may have; the kernel's default of 4096 is one
	// connection each.
	maxFiles = 1 << 20
)

// earliest is a time that has passed for sure; a clock before it is wrong.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Run boots the box and runs millraced until power off or reboot is asked for. console is where
// people read. It must be called by PID 1; it returns only when the box could not be switched off.
func Run(console io.Writer) error {
	if os.Getpid() != 1 {
		return errors.New("boot: this process is not PID 1 of a box")
	}
	logger := slog.New(newConsoleHandler(console))
	b := &box{console: console, logger: logger}
	if err := b.start(); err != nil {
		// Serving is out, but the box stays up: its power button and its console work.
		logger.Error("not serving", "cause", err)
	}
	r := <-b.requests
	what := "powering off"
	if r.reboot {
		what = "rebooting"
	}
	logger.Info(what, "cause", r.cause)
	b.stop()
	return powerOff(r.reboot, b.mounted, logger)
}

// box is the running system.
type box struct {
	console  io.Writer
	logger   *slog.Logger
	requests <-chan request
	mounted  string // where the data disk is mounted; empty: nowhere
	store    string // for people: where streams are kept
	reaper   *reaper
	network  *network.Network
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// start does the steps of booting. The order matters where a comment says so.
func (b *box) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel

	mountErr := mounts()
	b.logger.Info("starting", "image", imageVersion(), "kernel", kernelRelease())
	// Children are started and collected in one place from here on.
	b.reaper = startReaper()
	// Before disk, network and power button: none of them is there without its driver.
	moduleErr := loadModules(b.logger)
	// Before anything that may fail: the owner must be able to switch off.
	b.requests = powerRequests(ctx, &b.wg, b.logger)
	if err := errors.Join(mountErr, moduleErr); err != nil {
		return err
	}
	// Before DHCP and millraced, who need random numbers and would wait without a word.
	waitRandom(b.logger)
	setClock(b.logger)

	disks, err := disk.Scan()
	if err != nil {
		return err
	}
	conf, err := b.readConfig(disks)
	if err != nil {
		return err
	}
	// Before the network: it takes no longer, and a refused disk should be read first.
	b.prepareDisk(ctx, disks, conf.Settings.Disk)
	settings := conf.Settings.Network
	settings.Logger = b.logger
	if b.network, err = network.Up(ctx, settings); err != nil {
		return err
	}
	return b.serve(ctx, conf)
}

// stop ends what start began, last first.
func (b *box) stop() {
	b.cancel()
	if b.network != nil {
		b.network.Close()
	}
	b.wg.Wait()
	b.reaper.Close()
}

// mounts mounts the kernel's file systems.
func mounts() error {
	const common = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	for _, m := range []struct {
		path, kind, data string
		flags            uintptr
	}{
		{"/proc", "proc", "", common},
		{"/sys", "sysfs", "", common},
		{"/dev", "devtmpfs", "", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"/run", "tmpfs", "mode=0755,size=16m", common},
		{"/tmp", "tmpfs", "mode=1777,size=64m", common},
	} {
		if _, err := mount.Mount(m.kind, m.path, m.kind, m.data, m.flags); err != nil {
			return err
		}
	}
	return nil
}

// readConfig reads the owner's configuration from the disk the box was started from, the built-in
// one when there is none, and lets the kernel command line change it.
//
// When the owner's file cannot be read the box does not serve: the built-in configuration lets
// everybody in where the owner's may not.
func (b *box) readConfig(disks []disk.Disk) (*File, error) {
	name, text := "built-in configuration", ""
	system := 0
	for _, d := range disks {
		if d.Content != disk.System {
			continue
		}
		system++
		data, found, err := disk.ReadESP(d, espDir, espConfig)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		if found && text == "" {
			b.logger.Info("using configuration /"+espConfig, "disk", d.Name)
			name, text = "/"+espConfig, string(data)
		}
	}
	if _, err := os.Stat("/sys/firmware/efi"); err == nil && system == 0 {
		return nil, errors.New("read configuration: the disk this box was started from is not among the disks found")
	}
	f, err := ParseConfig(name, text)
	if err != nil {
		return nil, err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, fmt.Errorf("read kernel command line: %w", err)
	}
	return f, ParseCmdline(string(cmdline)).apply(&f.Settings)
}

// prepareDisk finds and mounts the data disk, and says what it does with every other. Without one
// the box goes on.
func (b *box) prepareDisk(ctx context.Context, disks []disk.Disk, want string) {
	d := disk.Decide(disks, want)
	for _, n := range d.Notes {
		b.logger.Warn(n)
	}
	if d.Action == disk.NoDisk {
		b.logger.Warn("no data disk: streams are off")
		return
	}
	c := disk.Config{Run: b.reaper.run, Dir: dataDir, Logger: b.logger}
	if err := disk.Prepare(ctx, c, d); err != nil {
		b.logger.Error("data disk cannot be used: streams are off", "disk", d.Disk, "cause", err)
		return
	}
	b.mounted = dataDir
	b.store = d.Disk
	if size, free, err := disk.Usage(dataDir); err == nil {
		b.store = fmt.Sprintf("%s, %s, %s free", d.Disk, gib(size), gib(free))
	}
}

// gib prints a size for people.
func gib(n int64) string {
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// serve writes millraced's configuration and keeps millraced running.
func (b *box) serve(ctx context.Context, conf *File) error {
	if err := os.MkdirAll(path.Dir(runConfig), 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(runConfig, conf.Millraced(b.mounted != ""), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	// Not x/sys: only this call makes Go hand the new limit to children.
	limit := syscall.Rlimit{Cur: maxFiles, Max: maxFiles}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.logger.Warn("few open files allowed", "cause", err)
	}
	host, port := conf.Listen()
	s := &supervisor{
		reaper:  b.reaper,
		path:    millracedPath,
		args:    []string{"-c", runConfig},
		env:     []string{"PATH=/sbin:/bin", "HOME=" + homeDir(b.mounted)},
		console: b.console,
		addr:    net.JoinHostPort(probeHost(host), port),
		ready:   func() { b.sayReady(conf, host, port) },
		logger:  b.logger,
	}
	b.wg.Go(func() { s.run(ctx) })
	return nil
}

// sayReady prints the line that people and tests wait for.
func (b *box) sayReady(conf *File, host, port string) {
	store := "none, streams are off"
	if dir := conf.Store(); b.mounted != "" && dir != "" {
		store = fmt.Sprintf("%s (%s)", dir, b.store)
	}
	addr := net.JoinHostPort(shownHost(host, b.network.Addrs()), port)
	fmt.Fprintf(b.console, "millrace: ready, nats://%s, store %s\n", addr, store)
}

// probeHost is where millraced is asked whether it is ready.
func probeHost(listen string) string {
	if listen == "" {
		return "127.0.0.1"
	}
	return listen
}

// shownHost is the address to tell people.
func shownHost(listen string, addrs []netip.Addr) string {
	switch {
	case listen != "":
		return listen
	case len(addrs) > 0:
		return addrs[0].String()
	}
	return "127.0.0.1"
}

// homeDir is the home directory of millraced, where programs keep what they were not told to put
// elsewhere.
func homeDir(mounted string) string {
	if mounted == "" {
		return "/run"
	}
	return path.Join(mounted, "home")
}

// waitRandom waits until the kernel's random generator is seeded.
func waitRandom(logger *slog.Logger) {
	var b [1]byte
	if _, err := unix.Getrandom(b[:], unix.GRND_NONBLOCK); !errors.Is(err, unix.EAGAIN) {
		return
	}
	logger.Warn("waiting for randomness; a machine with a hardware random generator has it at once")
	for {
		if _, err := unix.Getrandom(b[:], 0); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// setClock corrects a clock that is wrong for sure. The kernel has read the hardware clock.
func setClock(logger *slog.Logger) {
	if time.Now().After(earliest) {
		return
	}
	logger.Warn("the hardware clock is wrong or missing", "it says", time.Now().UTC().String(), "now set to", earliest.String())
	tv := unix.NsecToTimeval(earliest.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		logger.Warn("clock not set", "cause", err)
	}
}

// imageVersion is the version of the running image, from its os-release.
func imageVersion() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "unknown"
	}
	return osReleaseValue(string(b), "VERSION_ID")
}

// kernelRelease is what `uname -r` prints.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
