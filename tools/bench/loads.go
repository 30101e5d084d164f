package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load is one kind of traffic.
type load struct {
	name  string
	probe int // messages of the first, unmeasured run
	most  int // messages of a measured run at most
	run   func(ctx context.Context, c client, messages int) (rate float64, err error)
}

// loads in the order of the report.
var loads = []load{
	{"js async 128 B", 2000, 1_000_000, asyncPublish("--size", "128")},
	{"js async 128 B, 4 clients", 4000, 1_000_000, asyncPublish("--size", "128", "--clients", "4")},
	{"js async 1 KiB", 2000, 400_000, asyncPublish("--size", "1024")},
	{"js sync 128 B", 200, 100_000, syncPublish("--size", "128")},
	{"js sync 128 B, 16 clients", 1600, 200_000, syncPublish("--size", "128", "--clients", "16")},
	{"js consume, explicit ack", 2000, 200_000, consume("consume")},
	{"js fetch, explicit ack", 2000, 200_000, consume("fetch")},
	{"js ordered", 2000, 200_000, consume("ordered")},
	{"core publish 128 B", 100_000, 10_000_000, corePublish},
	{"core 1:1 128 B", 100_000, 5_000_000, pubSub("--size", "128")},
	{"core 1:4 128 B", 50_000, 2_000_000, pubSub("--size", "128", "--clients", "4")},
	{"core 1:1 8 KiB", 10_000, 500_000, pubSub("--size", "8192")},
	{"request and reply 128 B", 500, 200_000, requestReply},
	{"route 1:1 128 B", 50_000, 5_000_000, acrossRoute(pubSub("--size", "128"))},
	{"route request and reply", 500, 200_000, acrossRoute(requestReply)},
}

// count is how many messages keep a server busy for span at the given rate.
func (l load) count(rate float64, span time.Duration) int {
	n := min(max(int(rate*span.Seconds()), l.probe), l.most)
	return n / 100 * 100 // so that clients share them evenly
}

// client runs the load program against one server, or the two of a cluster.
type client struct {
	cli, home, url string
	pair           [2]string
}

// Bounds of one run of the load program, and the time that a subscriber is given to be known to the
// server before the publisher starts.
const (
	runTimeout  = 2 * time.Minute
	settleDelay = 400 * time.Millisecond
)

// command prepares the load program. It ends with ctx.
func (c client) command(ctx context.Context, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, c.cli, append([]string{"--timeout", "30s"}, args...)...)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "NATS_URL="+c.url, "HOME="+c.home, "XDG_CONFIG_HOME="+c.home, "NATS_CONTEXT=")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd, out
}

// text runs the load program to its end and returns its output.
func (c client) text(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd, out := c.command(ctx, args...)
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("nats %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return out.String(), nil
}

// rate runs the load program and returns the rate that it prints.
func (c client) rate(ctx context.Context, args ...string) (float64, error) {
	out, err := c.text(ctx, args...)
	if err != nil {
		return 0, err
	}
	return parseRate(out)
}

// Streams of the loads: publishers get an empty one each time, consumers share a filled one.
const (
	publishStream = "BENCH"
	readStream    = "BENCH_READ"
)

// freshStream makes an empty R1 file stream, so that no run pays for those before it.
func (c client) freshStream(ctx context.Context) error {
	if _, err := c.text(ctx, "stream", "rm", publishStream, "--force"); err != nil && !strings.Contains(err.Error(), "not found") {
		return err
	}
	return c.addStream(ctx, publishStream)
}

func (c client) addStream(ctx context.Context, name string) error {
	_, err := c.text(ctx, "stream", "add", name, "--subjects", name+".>", "--storage", "file", "--replicas", "1", "--defaults")
	return err
}

// fill sees to it that the stream of the consumers has the given number of messages of 128 bytes.
func (c client) fill(ctx context.Context, messages int) error {
	names, err := c.text(ctx, "stream", "ls", "--names")
	if err != nil {
		return err
	}
	if !slices.Contains(strings.Fields(names), readStream) {
		if err := c.addStream(ctx, readStream); err != nil {
			return err
		}
	}
	text, err := c.text(ctx, "stream", "info", readStream, "--json")
	if err != nil {
		return err
	}
	var info struct{ State struct{ Messages int } }
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return fmt.Errorf("parse stream info: %w", err)
	}
	if missing := messages - info.State.Messages; missing > 0 {
		_, err = c.text(ctx, publishArgs("async", readStream, missing, []string{"--size", "128", "--batch", "100"})...)
	}
	return err
}

func publishArgs(kind, stream string, messages int, args []string) []string {
	return append([]string{"bench", "js", "pub", kind, stream + ".x", "--stream", stream, "--no-progress", "--msgs", strconv.Itoa(messages)}, args...)
}

func asyncPublish(args ...string) func(context.Context, client, int) (float64, error) {
	return func(ctx context.Context, c client, messages int) (float64, error) {
		if err := c.freshStream(ctx); err != nil {
			return 0, err
		}
		return c.rate(ctx, publishArgs("async", publishStream, messages, args)...)
	}
}

func syncPublish(args ...string) func(context.Context, client, int) (float64, error) {
	return func(ctx context.Context, c client, messages int) (float64, error) {
		if err := c.freshStream(ctx); err != nil {
			return 0, err
		}
		return c.rate(ctx, publishArgs("sync", publishStream, messages, args)...)
	}
}

// consume reads a stream of 128-byte messages with one kind of consumer. Filling the stream is not
// measured.
func consume(kind string) func(context.Context, client, int) (float64, error) {
	return func(ctx context.Context, c client, messages int) (float64, error) {
		if err := c.fill(ctx, messages); err != nil {
			return 0, err
		}
		args := []string{"bench", "js", kind, "--stream", readStream, "--no-progress", "--msgs", strconv.Itoa(messages)}
		if kind != "ordered" {
			if _, err := c.text(ctx, "consumer", "rm", readStream, "WORKER", "--force"); err != nil && !strings.Contains(err.Error(), "not found") {
				return 0, err
			}
			if _, err := c.text(ctx, "consumer", "add", readStream, "WORKER", "--pull", "--ack", "explicit", "--defaults"); err != nil {
				return 0, err
			}
			args = append(args, "--consumer", "WORKER")
		}
		return c.rate(ctx, args...)
	}
}

func corePublish(ctx context.Context, c client, messages int) (float64, error) {
	return c.rate(ctx, "bench", "pub", "bench-core.x", "--no-progress", "--size", "128", "--msgs", strconv.Itoa(messages))
}

// pubSub measures what arrives at the subscribers; args are those of the subscribing side.
func pubSub(args ...string) func(context.Context, client, int) (float64, error) {
	return func(ctx context.Context, c client, messages int) (float64, error) {
		n := strconv.Itoa(messages)
		size := args[1]
		return c.both(ctx,
			append([]string{"bench", "sub", "bench-core.x", "--no-progress", "--msgs", n}, args...),
			[]string{"bench", "pub", "bench-core.x", "--no-progress", "--size", size, "--msgs", n}, true)
	}
}

func requestReply(ctx context.Context, c client, messages int) (float64, error) {
	return c.both(ctx,
		[]string{"bench", "service", "serve", "bench-core.q", "--no-progress", "--size", "128"},
		[]string{"bench", "service", "request", "bench-core.q", "--no-progress", "--size", "128", "--msgs", strconv.Itoa(messages)}, false)
}

// acrossRoute makes the sides of a load use the two servers of the cluster.
func acrossRoute(run func(context.Context, client, int) (float64, error)) func(context.Context, client, int) (float64, error) {
	return func(ctx context.Context, c client, messages int) (float64, error) {
		c.url = ""
		return run(ctx, c, messages)
	}
}

// receiver and sender are the load program at the server of either side: the only one, or those of the
// cluster.
func (c client) receiver() client {
	if c.url == "" {
		c.url = c.pair[1]
	}
	return c
}

func (c client) sender() client {
	if c.url == "" {
		c.url = c.pair[0]
	}
	return c
}

// both runs a receiving and a sending side and returns the rate of the receiver, or of the sender
// for a receiver that does not end by itself.
func (c client) both(ctx context.Context, receive, send []string, ofReceiver bool) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	receiverCtx, stopReceiver := context.WithCancel(ctx)
	defer stopReceiver()
	cmd, received := c.receiver().command(receiverCtx, receive...)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var wg sync.WaitGroup
	var receiveErr error
	wg.Go(func() { receiveErr = cmd.Wait() })
	select {
	case <-ctx.Done():
	case <-time.After(settleDelay):
	}
	sent, err := c.sender().text(ctx, send...)
	if err != nil || !ofReceiver {
		stopReceiver()
	}
	wg.Wait()
	if err != nil {
		return 0, err
	}
	if !ofReceiver {
		return parseRate(sent)
	}
	if receiveErr != nil {
		return 0, fmt.Errorf("nats %s: %w\n%s", strings.Join(receive, " "), receiveErr, received)
	}
	return parseRate(received.String())
}
