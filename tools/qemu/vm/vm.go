package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"millrace/board"
)

// powerButtonEvery is how often PowerDown presses the button again: a guest that is still booting
// does not hear it.
const powerButtonEvery = 2 * time.Second

// endTimeout is how long an emulator that does not answer any more may take to be gone.
const endTimeout = 5 * time.Second

// Forward makes a TCP port of the guest reachable on 127.0.0.1 of this machine.
type Forward struct {
	Host  int // port here; 0 takes a free one
	Guest int // port in the guest
}

// Network plugs a machine into a Switch.
type Network struct {
	Socket string           // as Switch.Plug returns it
	MAC    net.HardwareAddr // of the machine's card; each has another
}

// Config describes one machine.
type Config struct {
	Board board.Board // how to emulate it
	Image string      // disk image made by tools/mkimage; its kernel and initramfs stand beside it

	// Direct starts kernel and initramfs without firmware and boot loader, some seconds faster.
	Direct bool

	// Cmdline is added to the kernel command line; only with Direct.
	Cmdline string

	// SystemDisk is a copy of the image that is the machine's own and that it may write to: it keeps its
	// state there. Empty: Image itself, which stays as it is.
	SystemDisk string

	DataDisk  string // file of the data disk, created sparse when missing; empty: no data disk
	DataBytes int64  // size of a new data disk; default 8 GiB

	// MoreDisks are files of further disks, like DataDisk, with the serial numbers data2, data3 and so on.
	MoreDisks []string

	// SystemSocket and DataSocket are unix sockets at which such a disk is served by the network block device
	// protocol, in place of the file: package disk does so. Empty: the file.
	SystemSocket, DataSocket string

	Forwards  []Forward // without Network only: behind a switch there is a Gateway
	Network   *Network  // the switch that the machine is plugged into; nil: a network of its own
	MemoryMiB int       // default 768

	// CPUs is the number of processors; default 1. More than one makes boots faster, but the
	// emulator then stalls about one boot in twenty.
	CPUs int

	// Reboots makes a guest that starts anew do so in the same machine. Without it that ends the emulator.
	Reboots bool

	ConsoleLog string    // file that gets the console text; empty: none
	Console    io.Writer // gets the console text too; nil: none

	// Input is typed on the console; nil: nothing.
	Input io.Reader

	// BootTimeout is how long Boot waits for the box to serve; default 2 minutes.
	BootTimeout time.Duration

	Logger *slog.Logger // default: discards
}

func (c Config) withDefaults() Config {
	if c.DataBytes == 0 {
		c.DataBytes = 8 << 30
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 768
	}
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.BootTimeout == 0 {
		c.BootTimeout = 2 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	if c.Board.QEMU.Binary == "" {
		return fmt.Errorf("board %q cannot be emulated", c.Board.Name)
	}
	if c.Image == "" {
		return errors.New("no image")
	}
	if c.Network != nil && len(c.Forwards) > 0 {
		return errors.New("ports of a machine behind a switch are forwarded by a gateway")
	}
	if c.Cmdline != "" && !c.Direct {
		return fmt.Errorf("command line %q: the one in the image is fixed; only a direct boot can add to it", c.Cmdline)
	}
	return nil
}

// VM is a running machine. Its methods may be called concurrently.
type VM struct {
	cfg     Config
	dir     string // temporary files
	qmp     string
	cmd     *exec.Cmd
	console *console
	stderr  bytes.Buffer // read only after done is closed
	done    chan struct{}
	exit    error // set before done is closed
	wg      sync.WaitGroup
}

// Start starts the emulator and returns at once; see WaitConsole and Boot for waiting. The caller
// must end the machine with Kill or PowerDown.
func Start(c Config) (*VM, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	forwards, err := pickPorts(c.Forwards)
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	c.Forwards = forwards
	// Unix socket paths must be shorter than 108 bytes, so the socket is not put beside the image.
	dir, err := os.MkdirTemp("", "millrace-vm-")
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	v := &VM{cfg: c, dir: dir, qmp: filepath.Join(dir, "qmp"), done: make(chan struct{})}
	if err := v.start(); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start machine: %w", err)
	}
	return v, nil
}

func (v *VM) start() error {
	c := v.cfg
	p := paths{nvram: filepath.Join(v.dir, "nvram"), qmp: v.qmp}
	if !c.Direct {
		vars, err := os.ReadFile(c.Board.QEMU.NVRAM)
		if err != nil {
			return fmt.Errorf("read firmware variables (package ovmf not installed? a direct boot needs none): %w", err)
		}
		if err := os.WriteFile(p.nvram, vars, 0o644); err != nil {
			return fmt.Errorf("copy firmware variables: %w", err)
		}
	}
	files := c.MoreDisks
	if c.DataDisk != "" && c.DataSocket == "" {
		files = append([]string{c.DataDisk}, files...)
	}
	for _, name := range files {
		if err := makeDisk(name, c.DataBytes); err != nil {
			return err
		}
	}
	mirror := c.Console
	var log *os.File
	if c.ConsoleLog != "" {
		var err error
		// Truncated: a line of an earlier run must not look like one of this.
		if log, err = os.Create(c.ConsoleLog); err != nil {
			return fmt.Errorf("create console log: %w", err)
		}
		if mirror = io.Writer(log); c.Console != nil {
			mirror = io.MultiWriter(log, c.Console)
		}
	}
	v.console = newConsole(mirror)
	v.cmd = exec.Command(c.Board.QEMU.Binary, args(c, p)...)
	v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = c.Input, v.console, &v.stderr
	// Its own process group: ^C in a terminal is for us, who press the power button. And it must
	// not outlive a test that is killed.
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := v.cmd.Start(); err != nil {
		if log != nil {
			log.Close()
		}
		return err
	}
	v.wg.Go(func() { v.wait(log) })
	return nil
}

// wait collects the emulator's end.
func (v *VM) wait(log *os.File) {
	v.exit = v.cmd.Wait()
	if log != nil {
		v.exit = errors.Join(v.exit, log.Close())
	}
	v.console.finish()
	os.RemoveAll(v.dir)
	close(v.done)
}

// Ports that are picked are below those that kernels give to connections that go out: one of them could take a port
// before the emulator has it.
const (
	firstPort = 20000
	lastPort  = 32000
)

// pickPorts fills in free host ports.
func pickPorts(forwards []Forward) ([]Forward, error) {
	out := append([]Forward(nil), forwards...)
	for i := range out {
		for tries := 0; out[i].Host == 0; tries++ {
			port := firstPort + rand.IntN(lastPort-firstPort)
			if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
				defer l.Close() // kept open until all are picked, so that all differ
				out[i].Host = port
			} else if tries == 100 {
				return nil, fmt.Errorf("find a free port from %d to %d: %w", firstPort, lastPort, err)
			}
		}
	}
	return out, nil
}

// makeDisk creates a sparse disk file unless there is one.
func makeDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create data disk: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("create data disk: %w", err)
	}
	return nil
}

// Addr returns where a forwarded port of the guest is reached here, as "127.0.0.1:PORT". It panics
// when Config.Forwards does not have the port.
func (v *VM) Addr(guest int) string {
	for _, f := range v.cfg.Forwards {
		if f.Guest == guest {
			return fmt.Sprintf("127.0.0.1:%d", f.Host)
		}
	}
	panic(fmt.Sprintf("BUG: guest port %d is not forwarded", guest))
}

// Console returns what the guest has printed.
func (v *VM) Console() string {
	return v.console.String()
}

// WaitConsole waits until the guest has printed text. It returns ErrStalled when the guest's kernel
// reports a stalled processor, and ErrEnded when the machine ends first.
func (v *VM) WaitConsole(ctx context.Context, text string) error {
	_, err := v.waitConsole(ctx, text)
	return err
}

// waitConsole is WaitConsole for the first of texts that is there.
func (v *VM) waitConsole(ctx context.Context, texts ...string) (string, error) {
	found, ok, err := v.console.wait(ctx, slices.Concat(texts, stallTexts)...)
	switch {
	case err != nil:
		return "", fmt.Errorf("wait for %q on the console: %w; it ends in:\n%s", texts, err, tail(v.Console(), 20))
	case !ok:
		<-v.done
		return "", fmt.Errorf("wait for %q on the console: %w (%v) %s; it ends in:\n%s",
			texts, ErrEnded, v.exit, v.stderr.String(), tail(v.Console(), 20))
	case slices.Contains(stallTexts, found):
		return "", fmt.Errorf("wait for %q on the console: %w (%s)", texts, ErrStalled, found)
	}
	return found, nil
}

// ConsoleLine waits until the guest has printed a whole line that holds text, and returns what the first
// such line says behind it. It returns ErrEnded when the machine ends first.
func (v *VM) ConsoleLine(ctx context.Context, text string) (string, error) {
	rest, ok, err := v.console.restOfLine(ctx, text)
	if err == nil && !ok {
		err = ErrEnded
	}
	if err != nil {
		return "", fmt.Errorf("wait for a line with %q on the console: %w; it ends in:\n%s", text, err, tail(v.Console(), 20))
	}
	return rest, nil
}

// Done is closed when the machine has ended, by itself or not.
func (v *VM) Done() <-chan struct{} {
	return v.done
}

// Kill ends the emulator at once, as a power cut ends a machine: nothing the guest still held in
// memory is saved. It returns when the process is gone; a machine that has ended is no error.
//
// What the guest had handed to its disk survives even without a flush, since it is in this
// machine's page cache. Kill therefore cannot show a missing flush of the disk's own cache; package disk can.
func (v *VM) Kill() {
	// The error says that the process has ended, which is what is wanted.
	_ = v.cmd.Process.Kill()
	v.wg.Wait()
}

// CPUTime is how long this machine's processors have worked for the emulator, all threads together; 0 before the
// machine has ended. Unlike the time on the wall it says little about what else this machine does.
func (v *VM) CPUTime() time.Duration {
	select {
	case <-v.done:
		return v.cmd.ProcessState.UserTime() + v.cmd.ProcessState.SystemTime()
	default:
		return 0
	}
}

// PowerDown presses the power button and waits until the guest has powered off.
func (v *VM) PowerDown(ctx context.Context) error {
	for {
		if err := qmp(ctx, v.qmp, "system_powerdown"); err != nil {
			select {
			case <-v.done: // ended while asked
			case <-time.After(endTimeout):
				return fmt.Errorf("press power button: %w", err)
			}
		}
		select {
		case <-v.done:
			v.wg.Wait()
			if v.exit != nil {
				return fmt.Errorf("power down: emulator: %w: %s", v.exit, v.stderr.String())
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("power down: %w; the console ends in:\n%s", ctx.Err(), tail(v.Console(), 20))
		case <-time.After(powerButtonEvery):
		}
	}
}
