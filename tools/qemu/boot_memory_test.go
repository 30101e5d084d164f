//go:build qemu

package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/appliance/boxapi"
)

// What the load of TestFleetInLittleMemory is.
const (
	memoryStreams   = 20
	memoryConsumers = 15 // durable ones of each stream
	memoryMessages  = 100_000
	memoryBytes     = 256 // of a message
	memoryPending   = 1000
)

// A router with 256 MiB and a storage node with 512 MiB carry streams, consumers and a plugin. The kernel of neither has to
// end a process, and both say that they are well. What memory was left at least is logged.
func TestFleetInLittleMemory(t *testing.T) {
	long(t)
	ctx := testContext(t)
	f := testFleet(t, fleetConfig{Nodes: 1, Routers: 1, Direct: true})
	n1, r1 := f.machines[0], f.machines[1]
	n1.cfg.MemoryMiB, r1.cfg.MemoryMiB = 512, 256
	if err := start(ctx, f.machines, 2); err != nil {
		t.Fatal(err)
	}
	a := &admin{t: t, millrace: buildMillrace(ctx, t), url: r1.url}
	before := map[string]boxapi.Info{"n1": a.await(ctx, "n1", time.Time{}), "r1": a.await(ctx, "r1", time.Time{})}
	for name, info := range before {
		t.Logf("%s at rest: %s", name, memoryText(info.Memory))
	}
	watching, stop := context.WithCancel(ctx)
	least := map[string]boxapi.Memory{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for watching.Err() == nil {
			for name := range before {
				info, err := a.ask(watching, name)
				if m, seen := least[name]; err == nil && (!seen || info.Memory.Available < m.Available) {
					least[name] = info.Memory
				}
			}
			select {
			case <-watching.Done():
			case <-time.After(time.Second):
			}
		}
	})
	loadFleet(ctx, t, a, r1.url)
	stop()
	wg.Wait()
	for _, m := range f.machines {
		name := m.name
		info := a.await(ctx, name, time.Time{})
		t.Logf("%s under load: at the least %s; after it %s", name, memoryText(least[name]), memoryText(info.Memory))
		if info.Started != before[name].Started {
			t.Errorf("%s has started anew", name)
		}
		if c := m.vm.Console(); strings.Contains(c, "Out of memory") || strings.Contains(c, "oom-kill") || strings.Contains(c, "millraced ended, starting it again") {
			t.Errorf("console of %s:\n%s", name, c)
		}
		a.want(ctx, "", []string{"logs", name}, "") // the log is readable
		if out, err := a.run(ctx, "", "logs", name); err != nil || strings.Contains(out, "Out of memory") || strings.Contains(out, "oom-kill") {
			t.Errorf("log of %s (error %v):\n%s", name, err, out)
		}
	}
}

func memoryText(m boxapi.Memory) string {
	return fmt.Sprintf("%d of %d MiB available", m.Available>>20, m.Total>>20)
}

// loadFleet puts streams with consumers and a plugin on a cluster by way of a router, publishes to all, and has the consumers
// take what they get.
func loadFleet(ctx context.Context, t *testing.T, a *admin, url string) {
	t.Helper()
	began := time.Now()
	c := fleetClient(t, url)
	for i := range memoryStreams {
		name := fmt.Sprint("M", i)
		newLedger(ctx, t, c.js, name, 1)
		for k := range memoryConsumers {
			if _, err := c.js.CreateConsumer(ctx, name, jetstream.ConsumerConfig{
				Durable: fmt.Sprint("c", k), AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: memoryPending,
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	newLedger(ctx, t, c.js, "upper", 1)
	for _, args := range [][]string{
		{"plugin", "push", testPlugin(t), "--name", "upper"},
		{"plugin", "bind", "upper", "--stream", "M0", "--publish", "upper.>"},
	} {
		cmd := exec.CommandContext(ctx, a.millrace, args...)
		cmd.Env = append(os.Environ(), "NATS_URL="+url)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("millrace %v: %v\n%s", args, err, out)
		}
	}
	t.Logf("%d streams with %d durable consumers each after %.1f s", memoryStreams, memoryConsumers, time.Since(began).Seconds())

	began = time.Now()
	async, err := jetstream.New(c.nc, jetstream.WithPublishAsyncMaxPending(memoryPending), jetstream.WithDefaultTimeout(apiTimeout))
	if err != nil {
		t.Fatal(err)
	}
	payload := []byte(strings.Repeat("x", memoryBytes))
	var acks []jetstream.PubAckFuture
	for i := range memoryMessages {
		ack, err := async.PublishAsync(fmt.Sprintf("M%d.x", i%memoryStreams), payload, jetstream.WithStallWait(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			t.Fatalf("message %d: %v", i, err)
		case <-ctx.Done():
			t.Fatalf("message %d of %d is not acknowledged: %v", i, memoryMessages, ctx.Err())
		}
	}
	t.Logf("%d messages of %d bytes acknowledged after %.1f s", memoryMessages, memoryBytes, time.Since(began).Seconds())

	began = time.Now()
	taken := 0
	for i := range memoryStreams {
		for k := range memoryConsumers {
			consumer, err := c.js.Consumer(ctx, fmt.Sprint("M", i), fmt.Sprint("c", k))
			if err != nil {
				t.Fatal(err)
			}
			batch, err := consumer.Fetch(memoryPending/10, jetstream.FetchMaxWait(apiTimeout))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				if err := m.Ack(); err != nil {
					t.Fatal(err)
				}
				taken++
			}
			if err := batch.Error(); err != nil {
				t.Errorf("consumer %d of M%d: %v", k, i, err)
			}
		}
	}
	if want := memoryStreams * memoryConsumers * memoryPending / 10; taken != want {
		t.Errorf("%d messages delivered, want %d", taken, want)
	}
	t.Logf("%d messages delivered after %.1f s", taken, time.Since(began).Seconds())
	awaitMessages(ctx, t, c.js, "upper", memoryMessages/memoryStreams)
}

// awaitMessages waits until a stream holds that many.
func awaitMessages(ctx context.Context, t *testing.T, js jetstream.JetStream, stream string, want uint64) {
	t.Helper()
	began := time.Now()
	for {
		s, err := js.Stream(ctx, stream)
		if err == nil && s.CachedInfo().State.Msgs >= want {
			t.Logf("the plugin has published %d messages %.1f s later", want, time.Since(began).Seconds())
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("stream %s does not hold %d messages: %v, last error %v", stream, want, ctx.Err(), err)
		case <-time.After(time.Second):
		}
	}
}
