// Command millraced runs one Millrace node: a NATS and JetStream server whose acknowledgements mean
// "on disk". It reads flags and signals; everything else is in package node.
//
// SIGTERM and SIGINT stop it cleanly, SIGUSR2 lets clients move away first (lame duck). It exits
// with 0 after a clean stop, 1 when it cannot start or go on, 2 for wrong flags.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"millrace/appliance/node"
)

func main() {
	reserveHeapSlack(machineMemory())
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	flags := flag.NewFlagSet("millraced", flag.ContinueOnError)
	file := flags.String("c", "", "configuration `file` in nats-server syntax; none: port 4222, store in the user's data folder")
	test := flags.Bool("t", false, "check the configuration and exit")
	store := flags.String("store", "", "`folder` of streams, in place of jetstream.store_dir")
	box := flags.String("box", "", "unix `socket` of the box that runs this node; set by its init")
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "millraced: unknown argument %q; see millraced -h\n", flags.Arg(0))
		return 2
	}
	if *version {
		fmt.Println("millraced", node.Version())
		return 0
	}
	settings, err := node.SettingsFor(*file, *store)
	var log *slog.Logger
	if err == nil {
		settings.BoxSocket = *box
	}
	if err == nil && !*test {
		log, err = node.NewLogger(settings.Log)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "millraced: %v\n", err)
		return 1
	}
	if *test {
		fmt.Fprintf(os.Stderr, "millraced: configuration file %s is valid\n", settings.File)
		return 0
	}
	if err := serve(settings, log); err != nil {
		log.Error("stopped", "err", err)
		return 1
	}
	return 0
}

// How long an orderly end may take before the process ends without it. What was acknowledged is on
// disk either way.
const (
	stopTime  = 30 * time.Second
	fatalTime = 5 * time.Second
)

// errSignal is why a start ends early when it is told to.
var errSignal = errors.New("stopped by a signal")

// serve runs the node until a signal ends it or it cannot go on.
func serve(settings *node.Settings, log *slog.Logger) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2)
	n, err := start(settings, log, signals)
	if errors.Is(err, errSignal) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stop := func(within time.Duration, cause error) error {
		signal.Stop(signals) // a second SIGINT kills a node that hangs in Close
		time.AfterFunc(within, func() {
			log.Error("gave up waiting for an orderly end", "after", within)
			os.Exit(1)
		})
		cancel()
		return errors.Join(cause, n.Close(context.Background()))
	}
	var drained chan struct{}
	for {
		select {
		case err := <-n.Fatal():
			log.Error("cannot go on", "err", err)
			return stop(fatalTime, err)
		case <-drained:
			return stop(stopTime, nil)
		case sig := <-signals:
			log.Info("signal", "name", sig.String())
			if sig != syscall.SIGUSR2 {
				return stop(stopTime, nil)
			}
			if drained == nil {
				drained = make(chan struct{})
				go func() { n.LameDuck(ctx); close(drained) }()
			}
		}
	}
}

// start starts the node; a signal ends that with errSignal. Recovery leaves the store at every moment
// as a crash may leave it, so nothing has to be waited for.
func start(settings *node.Settings, log *slog.Logger, signals chan os.Signal) (*node.Node, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	started, watched := make(chan struct{}), make(chan struct{})
	var sig os.Signal
	go func() {
		defer close(watched)
		select {
		case sig = <-signals:
			log.Info("signal while starting", "name", sig.String())
			cancel(errSignal)
		case <-started:
		}
	}()
	n, err := node.Start(ctx, settings, log)
	close(started)
	<-watched
	cancel(nil)
	if err == nil && sig != nil { // it came too late to end the start
		select {
		case signals <- sig:
		default: // another one came
		}
	}
	return n, err
}
