// Command bench compares millraced with nats-server: the same loads by the official command line
// client, one after the other against each server, in several rounds, and the medians side by side.
// It starts and stops the servers itself, on loopback ports with stores in a temporary folder.
//
// nats-server runs twice: with "sync_interval: always", where an acknowledgement means what it
// means here, and with its defaults, where it is sent before the message is on disk.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	var b bench
	var only string
	flag.StringVar(&b.millraced, "millraced", ".build/bin/millraced", "`program` under test")
	flag.StringVar(&b.natsServer, "nats-server", ".build/bin/nats-server", "`program` to compare with")
	flag.StringVar(&b.cli, "nats", ".build/bin/nats", "command line client, the load `program`")
	flag.IntVar(&b.rounds, "rounds", 5, "`number` of measured runs of each load on each server")
	flag.DurationVar(&b.span, "span", 2*time.Second, "`time` that one run should take")
	flag.StringVar(&only, "only", "", "run only loads with this `text` in their name")
	flag.StringVar(&b.dir, "dir", "", "`folder` for the stores, on the disk to measure; default: the system's temporary folder")
	reached := flag.String("reach", "", "compare clusters of three nodes instead by this `measure`: failover, watchers, many, puts, idle, catchup, or \"all\"")
	var r reach
	flag.IntVar(&r.rounds, "reach-rounds", 7, "`number` of fail-overs")
	flag.DurationVar(&r.span, "reach-span", 10*time.Second, "`time` to create watchers, and to look at idle nodes")
	flag.IntVar(&r.streams, "reach-streams", 2000, "`number` of idle R3 streams, with an R3 consumer each")
	flag.IntVar(&r.watching, "reach-watchers", 10_000, "`number` of watchers that stay")
	flag.Int64Var(&r.lost, "reach-bytes", 1<<30, "`bytes` of the stream that a node lost; 10 GB is what the goal is for")
	out := flag.String("out", "", "`folder` for the report, named by time; default: print only")
	flag.Parse()
	b.loads = selectLoads(only)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	work := func() error { return run(ctx, &b, *out) }
	if *reached != "" {
		work = func() error { return runReach(ctx, &b, &r, *reached, *out) }
	}
	if err := work(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, b *bench, out string) error {
	if len(b.loads) == 0 {
		return fmt.Errorf("no load has the name asked for")
	}
	results, err := b.run(ctx)
	if err != nil {
		return err
	}
	text := b.environment(ctx) + "\n" + report(results)
	fmt.Print("\n", text)
	return write(out, "", text)
}

// runReach compares clusters.
func runReach(ctx context.Context, b *bench, r *reach, only, out string) error {
	if err := b.findPrograms(); err != nil {
		return err
	}
	r.dir = b.dir
	r.programs = []reachProgram{
		{serverNames[0], b.millraced, nil},
		{serverNames[1], b.natsServer, []string{"sync_interval: always"}},
		{serverNames[2], b.natsServer, nil},
	}
	if only == "all" {
		only = ""
	}
	text, err := r.run(ctx, only)
	fmt.Print("\n", text)
	if err != nil {
		return err
	}
	return write(out, "reach-", text)
}

// write keeps a report in a file named by time.
func write(out, prefix, text string) error {
	if out == "" {
		return nil
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	file := filepath.Join(out, prefix+time.Now().UTC().Format("2006-01-02T1504")+".txt")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	fmt.Printf("\nwritten to %s\n", file)
	return nil
}

func selectLoads(only string) []load {
	var selected []load
	for _, l := range loads {
		if strings.Contains(l.name, only) {
			selected = append(selected, l)
		}
	}
	return selected
}
