// Package qemu is `millrace qemu`: it runs a Millrace image in QEMU, one machine or a fleet. It does not build images:
// see tools/mkimage. Package vm below does the work and is what tests use.
package qemu

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"millrace/board"
	"millrace/tools/qemu/vm"
)

// natsPort is where millraced listens in the guest.
const natsPort = 4222

// powerDownTimeout is how long the box has to stop and power off.
const powerDownTimeout = 2 * time.Minute

const usage = `usage: millrace qemu run [flags]      boot one machine
       millrace qemu up [flags]       boot a fleet, by default three storage nodes and a router
       millrace qemu status           its machines and where they are reached
       millrace qemu console [-f] N   what machine N has printed
       millrace qemu kill N           cut the power of machine N, which stays off
       millrace qemu start N          switch it on
       millrace qemu powercut N       cut the power of machine N and give it back
       millrace qemu cut N M          nothing passes between machines N and M
       millrace qemu delay N M TIME   what passes takes that much longer
       millrace qemu drop N M SHARE   a share from 0 to 1 of what passes is lost
       millrace qemu heal N M         all passes again
       millrace qemu down             power the fleet off

run boots an image made by tools/mkimage, with a data disk and the NATS port forwarded to this machine,
and prints what to connect to. ^C presses the power button; a second ^C is a power cut. up does so with
several machines, which are on one wire; N is a name such as n1, or a number. -h after a verb prints its
flags.

`

// ErrUsage is returned for a command line that cannot be understood; what is wrong has been printed.
var ErrUsage = errors.New("qemu: usage")

// Run carries out a command line, without the words "millrace qemu". After ctx ends, a further interrupt ends the
// process, and the machines with it.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return ErrUsage
	}
	c := command{stdout: stdout, stderr: stderr, set: flag.NewFlagSet("millrace qemu "+args[0], flag.ContinueOnError)}
	c.set.SetOutput(stderr)
	c.set.Usage = func() { fmt.Fprint(stderr, usage); c.set.PrintDefaults() }
	var err error
	switch verb, args := args[0], args[1:]; verb {
	case "run":
		err = c.run(ctx, args)
	case "up":
		err = c.up(ctx, args)
	case "console":
		err = c.console(ctx, args)
	case "status", "kill", "start", "powercut", "cut", "delay", "drop", "heal", "down":
		err = c.ask(ctx, verb, args)
	default:
		fmt.Fprintf(stderr, "millrace qemu: unknown command %q\n%s", verb, usage)
		return ErrUsage
	}
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	return nil
}

// command is one invocation.
type command struct {
	stdout, stderr io.Writer
	set            *flag.FlagSet
}

// parse parses the flags of a verb.
func (c *command) parse(args []string) error {
	err := c.set.Parse(args)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	return ErrUsage // printed already
}

// logger prints what happens by the way.
func (c *command) logger() *slog.Logger { return slog.New(slog.NewTextHandler(c.stderr, nil)) }

// restore makes the next interrupt end this process.
func restore() { signal.Reset(os.Interrupt, syscall.SIGTERM) }

// run boots the machine and waits for its end.
func (c *command) run(ctx context.Context, args []string) error {
	fs := c.set
	boardName := fs.String("board", "qemu-amd64", "board of the image")
	image := fs.String("image", ".build/millrace.img", "disk image `file`")
	direct := fs.Bool("direct", false, "start the kernel without firmware and boot loader: some seconds faster")
	cmdline := fs.String("append", "", "added to the kernel command line; only with -direct")
	data := fs.String("data", ".build/data.img", "data disk `file`, created when missing; empty: no data disk")
	dataGiB := fs.Int64("data-size", 8, "size of a new data disk in GiB; it is sparse")
	port := fs.Int("port", 14222, "port on this machine for NATS; 0 takes a free one")
	memory := fs.Int("m", 768, "memory in MiB")
	cpus := fs.Int("smp", 1, "processors; more than one boots faster but stalls about one boot in twenty")
	logFile := fs.String("log", ".build/console.log", "`file` for the console text")
	killAfter := fs.Duration("kill-after", 0, "cut the power this long after the box serves; 0: never")
	if err := c.parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	b, ok := board.ByName(*boardName)
	if !ok {
		return fmt.Errorf("no board %q", *boardName)
	}
	if _, err := os.Stat(b.QEMU.NVRAM); err != nil && !*direct {
		fmt.Fprintln(c.stderr, "qemu: firmware is not installed (package ovmf): booting the kernel directly")
		*direct = true
	}
	began := time.Now()
	machine, err := vm.Boot(ctx, vm.Config{
		Board: b, Image: *image, Direct: *direct, Cmdline: *cmdline,
		DataDisk: *data, DataBytes: *dataGiB << 30,
		Forwards:  []vm.Forward{{Host: *port, Guest: natsPort}},
		MemoryMiB: *memory, CPUs: *cpus,
		ConsoleLog: *logFile, Console: c.stdout,
		Logger: c.logger(),
	})
	if err != nil {
		return err
	}
	defer machine.Kill()
	addr := machine.Addr(natsPort)
	if err := waitNATS(ctx, addr); err != nil {
		return err
	}
	printHelp(c.stdout, addr, time.Since(began))

	var cut <-chan time.Time
	if *killAfter > 0 {
		cut = time.After(*killAfter)
	}
	select {
	case <-machine.Done():
		return errors.New("the machine ended by itself")
	case <-cut:
		fmt.Fprintln(c.stdout, "\ncutting the power")
		machine.Kill()
		return nil
	case <-ctx.Done():
	}
	restore()
	fmt.Fprintln(c.stdout, "\npressing the power button")
	down, cancel := context.WithTimeout(context.Background(), powerDownTimeout)
	defer cancel()
	return machine.PowerDown(down)
}

// waitNATS waits for the forwarded port; the box itself has said that it serves.
func waitNATS(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return vm.WaitNATS(ctx, addr)
}

// printHelp says how to reach the box.
func printHelp(w io.Writer, addr string, took time.Duration) {
	url := "nats://" + addr
	rule := strings.Repeat("-", 72)
	fmt.Fprintf(w, "\n%s\nMillrace serves at %s (booted in %.1f s). With the nats CLI:\n\n", rule, url, took.Seconds())
	for _, command := range []string{
		"stream add ORDERS --subjects 'orders.>' --defaults",
		"pub orders.new --count 10 'order {{Count}}'",
		"stream view ORDERS",
		"consumer add ORDERS worker --pull --defaults",
		"consumer next ORDERS worker --count 1",
	} {
		fmt.Fprintf(w, "  nats -s %s %s\n", url, command)
	}
	fmt.Fprintf(w, "\n^C powers the box off.\n%s\n", rule)
}
