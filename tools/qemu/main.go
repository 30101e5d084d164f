// Command qemu runs a Millrace image in QEMU. It does not build images: see tools/mkimage. Package
// vm below does the work and is what tests use.
package main

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

const usage = `usage: qemu run [flags]      boot one machine
       qemu up [flags]       boot a fleet, by default three storage nodes and a router
       qemu status           its machines and where they are reached
       qemu console [-f] N   what machine N has printed
       qemu kill N           cut the power of machine N, which stays off
       qemu start N          switch it on
       qemu powercut N       cut the power of machine N and give it back
       qemu cut N M          nothing passes between machines N and M
       qemu delay N M TIME   what passes takes that much longer
       qemu drop N M SHARE   a share from 0 to 1 of what passes is lost
       qemu heal N M         all passes again
       qemu down             power the fleet off

run boots an image made by tools/mkimage, with a data disk and the NATS port forwarded to this machine,
and prints what to connect to. ^C presses the power button; a second ^C is a power cut. up does so with
several machines, which are on one wire; N is a name such as n1, or a number. -h after a verb prints its
flags.

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch verb, args := os.Args[1], os.Args[2:]; verb {
	case "run":
		err = run(ctx, stop, args)
	case "up":
		err = runUp(ctx, stop, args)
	case "console":
		err = runConsole(ctx, args, os.Stdout)
	case "status", "kill", "start", "powercut", "cut", "delay", "drop", "heal", "down":
		err = runAsk(ctx, verb, args, os.Stdout)
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "qemu:", err)
		os.Exit(1)
	}
}

// run boots the machine and waits for its end. After ctx ends, restore makes the next signal end
// this program, and the machine with it.
func run(ctx context.Context, restore func(), args []string) error {
	fs := flag.NewFlagSet("qemu run", flag.ExitOnError)
	fs.Usage = func() { fmt.Fprint(fs.Output(), usage); fs.PrintDefaults() }
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
	if err := fs.Parse(args); err != nil {
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
		fmt.Fprintln(os.Stderr, "qemu: firmware is not installed (package ovmf): booting the kernel directly")
		*direct = true
	}
	began := time.Now()
	machine, err := vm.Boot(ctx, vm.Config{
		Board: b, Image: *image, Direct: *direct, Cmdline: *cmdline,
		DataDisk: *data, DataBytes: *dataGiB << 30,
		Forwards:  []vm.Forward{{Host: *port, Guest: natsPort}},
		MemoryMiB: *memory, CPUs: *cpus,
		ConsoleLog: *logFile, Console: os.Stdout,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	defer machine.Kill()
	addr := machine.Addr(natsPort)
	if err := waitNATS(ctx, addr); err != nil {
		return err
	}
	printHelp(os.Stdout, addr, time.Since(began))

	var cut <-chan time.Time
	if *killAfter > 0 {
		cut = time.After(*killAfter)
	}
	select {
	case <-machine.Done():
		return errors.New("the machine ended by itself")
	case <-cut:
		fmt.Println("\ncutting the power")
		machine.Kill()
		return nil
	case <-ctx.Done():
	}
	restore()
	fmt.Println("\npressing the power button")
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
