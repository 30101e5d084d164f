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
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/u-root/u-root/pkg/mount"
	"golang.org/x/sys/unix"

	"millrace/appliance/boxapi"
	"millrace/appliance/system/box"
	"millrace/appliance/system/clock"
	"millrace/appliance/system/disk"
	"millrace/appliance/system/logbook"
	"millrace/appliance/system/network"
	"millrace/appliance/system/state"
	"millrace/image/layout"
)

const (
	millracedPath = "/bin/millraced"
	espDir        = "/boot"
	espConfig     = layout.ConfigFile

	// runConfig is what millraced is started with, in memory. It has the name of the owner's file on
	// the EFI system partition, whose lines millraced's errors name.
	runConfig = "/config/millrace.conf"

	// maxFiles is the number of open files millraced may have; the kernel's default of 4096 is one
	// connection each.
	maxFiles = 1 << 20

	// tickEvery is how often the box looks how it is.
	tickEvery = 5 * time.Second

	// flushTime is how long the console may take for its last lines.
	flushTime = 3 * time.Second
)

// earliest is a time that has passed for sure; a clock before it is wrong.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Run boots the box and runs millraced until power off or reboot is asked for. console is where
// people read. It must be called by PID 1; it returns only when the box could not be switched off.
func Run(console io.Writer) error {
	if os.Getpid() != 1 {
		return errors.New("boot: this process is not PID 1 of a box")
	}
	b := &systemBox{console: newLineOut(console), log: logbook.New(time.Now), started: time.Now(), requests: make(chan request, 1)}
	b.health = boxapi.Health{Status: "unavailable", Error: "starting"}
	b.logger = slog.New(newConsoleHandler(io.MultiWriter(b.console, b.log)))
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	if err := b.start(ctx); err != nil {
		// Serving is out, but the box stays up: its power button and its console work.
		b.logger.Error("not serving", "cause", err)
		b.note("not serving: " + err.Error())
		b.broken = true
	}
	r := b.live(ctx)
	what := "powering off"
	if r.reboot {
		what = "rebooting"
	}
	b.logger.Info(what, "cause", r.cause)
	b.alive.set(time.Now(), stopAlive)
	b.stop()
	return b.powerOff(r.reboot)
}

// systemBox is the running system.
type systemBox struct {
	console  *lineOut
	log      *logbook.Book
	logger   *slog.Logger
	started  time.Time
	requests chan request
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	reaper   *reaper
	watchdog *watchdog // nil: the machine has none
	feeding  sync.WaitGroup
	alive    liveness
	broken   bool // start failed

	timeline timeline // of the start; sayReady ends it
	timed    sync.Once

	mounts  []string   // in the order they were mounted
	system  *disk.Disk // the disk this box was started from; nil: none
	espMu   sync.Mutex // held while the EFI system partition is mounted
	network *network.Network
	daemon  *daemonLink
	service *box.Service

	supervisor *supervisor // of millraced; nil: it is not to run

	timekeeper *clock.Clock // nil: none is wanted
	clockWrong bool         // when the box started

	state     *state.Store
	stateAt   string // for people
	forgetful bool   // there is no state partition: the state is in memory
	stateLost bool   // there may be one that cannot be read
	name, key string // of this box
	conf      *File
	data      string   // where the data disk is mounted; empty: nowhere
	dataAt    string   // for people
	dataDisks []string // kernel names, the first one first; empty: none
	extraDirs []string // folders for the store on the others

	mu       sync.Mutex
	trial    *trial // nil: this version has proven itself, or was started otherwise
	update   boxapi.Update
	health   boxapi.Health
	clock    string
	warnings []string
}

// start does the steps of booting. The order matters where a comment says so.
func (b *systemBox) start(ctx context.Context) error {
	b.alive.set(time.Now(), startAlive)
	b.timeline.note("kernel", kernelAge())
	mountErr := mounts()
	b.logger.Info("starting", "image", imageVersion(), "kernel", kernelRelease())
	// Children are started and collected in one place from here on.
	b.reaper = startReaper()
	// First of all what can hang: a driver that does is a try of the boot loader.
	b.armWatchdog()
	// Before disk, network and power button: none of them is there without its driver.
	moduleErr := loadModules(b.logger)
	b.armWatchdog()
	// Before anything that may fail: the owner must be able to switch off.
	powerRequests(ctx, &b.wg, b.request, b.logger)
	b.wg.Go(func() { copyKernelLog(ctx, b.log, b.logger) })
	b.startShell(ctx)
	if err := errors.Join(mountErr, moduleErr); err != nil {
		return err
	}
	// Before DHCP and millraced, who need random numbers and would wait without a word.
	waitRandom(b.logger)
	b.clockWrong = setClock(b.logger)
	b.timeline.note("modules", kernelAge())

	disks, err := disk.Scan()
	if err != nil {
		return err
	}
	// Before the configuration, which is in it.
	if err := b.openState(ctx, disks); err != nil {
		return err
	}
	// Before anything of the owner's that may fail: a version that cannot read it goes back.
	b.openVersions()
	if b.conf, err = b.readConfig(); err != nil {
		return err
	}
	settings := b.conf.Settings
	b.openConsoles(settings.Console)
	if err := b.identify(settings.Network.Hostname); err != nil {
		return err
	}
	b.timeline.note("state", kernelAge())
	net := settings.Network
	net.Logger = b.logger
	if net.Hostname == "" && validHostname(b.name) {
		net.Hostname = b.name
	}
	// At the same time: links come up and leases are waited for while disks are checked or formatted.
	var bringing sync.WaitGroup
	bringing.Go(func() { b.network, err = bringUp(ctx, net) })
	b.prepareDisk(ctx, disks, settings.Disks)
	b.timeline.note("disks", kernelAge())
	bringing.Wait()
	if err != nil {
		return err
	}
	b.timeline.note("network", kernelAge())
	// Before millraced, under which the clock must never go back.
	b.startClock(ctx)
	b.timeline.note("time", kernelAge())
	return b.serve(ctx)
}

// bringUp brings the network up.
func bringUp(ctx context.Context, c network.Config) (*network.Network, error) {
	if c.VLAN > 0 {
		// No device announces it.
		if err := loadModule("8021q"); err != nil {
			return nil, err
		}
	}
	return network.Up(ctx, c)
}

// armWatchdog starts the watchdog, once there is one.
func (b *systemBox) armWatchdog() {
	if b.watchdog != nil {
		return
	}
	if b.watchdog = openWatchdog(b.logger); b.watchdog != nil {
		b.logger.Info("watchdog armed", "watchdog", b.watchdog.name)
		// Not waited for: it is fed until the very end, as long as that does not take too long.
		b.feeding.Go(func() { b.watchdog.feed(context.Background(), &b.alive, b.logger) })
	}
}

// request asks for the end of the run; the first one counts.
func (b *systemBox) request(r request) {
	select {
	case b.requests <- r:
	default:
	}
}

// warn logs a warning and keeps it for those who ask.
func (b *systemBox) warn(text string, args ...any) {
	b.logger.Warn(text, args...)
	for i := 1; i < len(args); i += 2 {
		text += fmt.Sprintf(", %v %v", args[i-1], args[i])
	}
	b.note(text)
}

// maxWarnings bounds the warnings that are kept.
const maxWarnings = 32

func (b *systemBox) note(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.warnings) < maxWarnings {
		b.warnings = append(b.warnings, text)
	}
}

// live looks how the box is until its end is asked for.
//
// It is the sign of life that the watchdog goes by: what it calls must not block for long.
func (b *systemBox) live(ctx context.Context) request {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	shown := ""
	var stuck hang
	for {
		// A process that the kernel holds on to is no life: the watchdog ends that.
		if stuck.step != resetHung {
			b.alive.set(time.Now(), loopAlive)
		}
		select {
		case r := <-b.requests:
			return r
		case <-tick.C:
		}
		health := boxapi.Health{Status: "unavailable", Error: "not serving"}
		if b.daemon != nil {
			var answered bool
			health, answered = b.daemon.health(ctx)
			b.unhang(&stuck, answered)
		}
		b.mu.Lock()
		b.health = health
		b.mu.Unlock()
		b.judge(health)
		if b.conf == nil {
			continue
		}
		if line := statusLine(b.info(ctx), b.conf.Cluster()); line != shown {
			shown = line
			fmt.Fprintf(io.MultiWriter(b.console, b.log), "millrace: status: %s\n", line)
		}
	}
}

// unhang ends a millraced that does not answer any more; its supervisor starts it again.
func (b *systemBox) unhang(h *hang, answered bool) {
	s := b.supervisor
	if s == nil {
		return
	}
	process := s.process()
	before := h.step
	switch v := h.judge(time.Now(), process, answered); {
	case v == before:
	case v == dumpHung:
		b.warn("millraced does not answer any more: it is ended, what it was doing goes into the log")
		s.signal(process, unix.SIGQUIT) // Go's runtime writes down all goroutines
	case v == killHung:
		b.logger.Error("millraced does not end, killing it")
		s.signal(process, unix.SIGKILL)
	case v == resetHung:
		b.logger.Error("millraced cannot be killed: the watchdog is not fed any more and resets this box")
	}
}

// judge decides about a version on trial.
func (b *systemBox) judge(health boxapi.Health) {
	b.mu.Lock()
	t := b.trial
	v, why := undecided, ""
	if t != nil {
		v, why = t.judge(time.Now(), health.OK())
	}
	if v != undecided {
		b.trial = nil
	}
	b.mu.Unlock()
	switch v {
	case good:
		if err := b.bless(); err != nil {
			b.warn("this version has proven itself, but that cannot be written: it may be tried again", "cause", err.Error())
		}
	case bad:
		b.logger.Error("this version does not prove itself", "cause", why, "health", health.Error)
		b.request(request{reboot: true, cause: "version on trial: " + why})
	}
}

// daemonEnded is called when millraced has ended by itself.
func (b *systemBox) daemonEnded() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.trial != nil {
		b.trial.ended()
	}
}

// info describes the box.
func (b *systemBox) info(context.Context) boxapi.Info {
	i := boxapi.Info{
		Name: b.name, Key: b.key, Version: imageVersion(), Board: imageBoard(), Debug: hasShell(), Kernel: kernelRelease(), Started: b.started.UTC(),
		Time: time.Now().UTC(), Role: boxapi.RoleRouter, State: b.stateAt, Data: b.dataAt, Watchdog: "none",
	}
	if b.conf != nil && b.conf.ServerName() != "" {
		i.Name = b.conf.ServerName()
	}
	if b.data != "" && b.conf.Store() != "" {
		i.Role = boxapi.RoleStorage
	}
	if b.watchdog != nil {
		i.Watchdog = b.watchdog.name
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		i.Memory = parseMemory(string(text))
	}
	if b.network != nil {
		i.Hostname = b.network.Hostname()
		for _, a := range b.network.Addrs() {
			i.Addresses = append(i.Addresses, a.String())
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i.Health, i.Update, i.Clock = b.health, b.update, b.clock
	i.Warnings = append(i.Warnings, b.warnings...)
	return i
}

// stop ends what start began, last first.
func (b *systemBox) stop() {
	b.cancel()
	if b.service != nil {
		b.service.Close()
	}
	if b.timekeeper != nil {
		b.timekeeper.Close()
	}
	if b.network != nil {
		b.network.Close()
	}
	b.wg.Wait()
	if b.reaper != nil {
		b.reaper.Close()
	}
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

// bindMount makes a folder visible in a second place.
func bindMount(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", from, to, err)
	}
	return nil
}

// openConsoles shows what the console shows on further ones.
func (b *systemBox) openConsoles(names []string) {
	for _, name := range names {
		f, err := os.OpenFile(path.Join("/dev", name), os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			b.warn("console cannot be used", "cause", err.Error())
			continue
		}
		b.console.add(f)
	}
}

// gib prints a size for people.
func gib(n int64) string {
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// serve writes millraced's configuration and keeps millraced running.
func (b *systemBox) serve(ctx context.Context) error {
	conf := b.conf
	if err := os.MkdirAll(path.Dir(runConfig), 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(runConfig, conf.Millraced(b.data != "", b.name, b.extraDirs...), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := b.serveRequests(ctx); err != nil {
		return err
	}
	// Not x/sys: only this call makes Go hand the new limit to children.
	limit := syscall.Rlimit{Cur: maxFiles, Max: maxFiles}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.warn("few open files allowed", "cause", err.Error())
	}
	host, port := conf.Listen()
	s := &supervisor{
		reaper:  b.reaper,
		path:    millracedPath,
		args:    []string{"-c", runConfig, "-box", boxSocket},
		env:     []string{"PATH=/sbin:/bin", "HOME=" + homeDir(b.data)},
		console: b.console,
		log:     b.log,
		addr:    net.JoinHostPort(probeHost(host), port),
		ready:   func() { b.sayReady(host, port) },
		ended:   b.daemonEnded,
		logger:  b.logger,
	}
	b.supervisor = s
	b.wg.Go(func() { s.run(ctx) })
	return nil
}

// serveRequests makes what the system account asks of the box reach it.
func (b *systemBox) serveRequests(ctx context.Context) error {
	uploads, err := b.uploads()
	if err != nil {
		return err
	}
	c := box.Config{
		Info: b.info, Log: b.log, Logger: b.logger,
		Send:        func(verb string, data []byte) error { return b.daemon.send(verb, data) },
		Power:       func(reboot bool, cause string) { b.soon(ctx, request{reboot, cause}) },
		ConfigText:  func() string { return b.conf.text },
		CheckConfig: b.checkConfig,
		Disks:       disk.Scan,
		DataDisks:   func() []string { return b.dataDisks },
		Uploads:     uploads,
		Install:     b.install,
		Now:         time.Now,
	}
	if !b.forgetful {
		c.State = b.state
	}
	b.service = box.New(c)
	if b.daemon, err = listenDaemon(boxSocket, b.service.Answer, b.logger); err != nil {
		return err
	}
	b.wg.Go(func() { b.daemon.run(ctx) })
	return nil
}

// soon asks for the end of the run once an answer that says so can be out.
func (b *systemBox) soon(ctx context.Context, r request) {
	b.wg.Go(func() {
		select {
		case <-time.After(time.Second):
			b.request(r)
		case <-ctx.Done():
		}
	})
}

// checkConfig checks a configuration as the next start would: ours, then millraced's.
func (b *systemBox) checkConfig(ctx context.Context, text string) error {
	f, err := ParseConfig("configuration", text)
	if err != nil {
		return err
	}
	if b.conf.ServerName() != "" && f.ServerName() == "" {
		b.logger.Warn("the new configuration sets no server_name any more", "the box will be called", b.name)
	}
	dir, err := os.MkdirTemp("/run", "config-")
	if err != nil {
		return fmt.Errorf("check configuration: %w", err)
	}
	defer os.RemoveAll(dir)
	file := path.Join(dir, path.Base(runConfig))
	if err := os.WriteFile(file, f.Millraced(b.data != "", b.name, b.extraDirs...), 0o600); err != nil {
		return fmt.Errorf("check configuration: %w", err)
	}
	out, code, err := b.reaper.run(ctx, millracedPath, "-c", file, "-t")
	if err == nil && code != 0 {
		err = errors.New(strings.TrimSpace(out))
	}
	return err
}

// sayReady prints the line that people and tests wait for.
func (b *systemBox) sayReady(host, port string) {
	store := "none, streams are off"
	if dir := b.conf.Store(); b.data != "" && dir != "" {
		store = fmt.Sprintf("%s (%s)", dir, b.dataAt)
	}
	addr := net.JoinHostPort(shownHost(host, b.network.Addrs()), port)
	fmt.Fprintf(io.MultiWriter(b.console, b.log), "millrace: ready, nats://%s, store %s\n", addr, store)
	b.timed.Do(func() {
		b.timeline.note("millraced", kernelAge())
		b.logger.Info("started", "took", b.timeline.String())
	})
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

// setClock corrects a clock that is wrong for sure, and reports whether it was. The kernel has read the hardware
// clock.
func setClock(logger *slog.Logger) (wrong bool) {
	if time.Now().After(earliest) {
		return false
	}
	logger.Warn("the hardware clock is wrong or missing", "it says", time.Now().UTC().String(), "now set to", earliest.String())
	tv := unix.NsecToTimeval(earliest.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		logger.Warn("clock not set", "cause", err)
	}
	return true
}

// kernelAge is how long ago the kernel started.
func kernelAge() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// kernelRelease is what `uname -r` prints.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
