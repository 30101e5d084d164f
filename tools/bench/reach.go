package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
)

// reach compares clusters of three: what a fail-over takes, what watchers, idle streams and a lost disk
// cost. Each measure runs on a new cluster of each program.
type reach struct {
	programs []reachProgram
	dir      string
	rounds   int           // of the fail-over
	span     time.Duration // of watchers and idling
	streams  int           // idle ones
	watching int           // watchers that stay
	lost     int64         // bytes of the stream that a node lost
}

type reachProgram struct {
	name, path string
	jetStream  []string
}

// reachMeasure is one run, which measures one or several things.
type reachMeasure struct {
	rows []reachRow
	run  func(r *reach, ctx context.Context, c *reachCluster) ([]float64, error) // a value for each row
}

// reachRow is one comparison.
type reachRow struct {
	name, unit string
	less       bool // less is better
}

var reachMeasures = []reachMeasure{
	{[]reachRow{{"failover: kill -9 of a leader to the next ack", "ms", true}}, (*reach).failover},
	{[]reachRow{{"watchers: created on an R3 bucket", "a second", false}}, (*reach).watchers},
	{[]reachRow{{"many: created on an R3 bucket, all stay", "a second", false}}, (*reach).watched},
	{[]reachRow{{"puts: next to those, 256 in flight", "a second", false}}, (*reach).watchedPut},
	{[]reachRow{{"idle: CPU of a node with R3 streams and consumers", "% of a core", true}}, (*reach).idle},
	{[]reachRow{
		{"catchup: a node that lost its disk", "MB/s", false},
		{"catchup: of a plain copy of the leader's store", "%", false},
	}, (*reach).catchup},
}

// reachCluster is three nodes and a client.
type reachCluster struct {
	*cluster.Cluster
	nc      *nats.Conn
	js      jetstream.JetStream
	readers sync.WaitGroup
}

// whole bounds the wait for a cluster to be whole again.
const whole = 30 * time.Minute

// run measures what has the text only in its name and prints a table.
func (r *reach) run(ctx context.Context, only string) (string, error) {
	var out bytes.Buffer
	fmt.Fprintf(&out, "clusters of three nodes on one machine, %s\n%d CPUs (%s), %s\n\n", time.Now().UTC().Format(time.DateOnly),
		runtime.NumCPU(), cpuModel(), runtime.Version())
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "measure\tunit\t")
	for _, p := range r.programs {
		fmt.Fprintf(w, "%s\t", p.name)
	}
	for _, p := range r.programs[1:] {
		fmt.Fprintf(w, "times better than %s\t", p.name)
	}
	fmt.Fprintln(w)
	found := false
	for _, m := range reachMeasures {
		if !strings.Contains(m.rows[0].name, only) {
			continue
		}
		found = true
		values := make([][]float64, len(r.programs)) // of each program, of each row
		for i, p := range r.programs {
			begun := time.Now()
			v, err := r.measure(ctx, m, p)
			if err != nil {
				return out.String(), fmt.Errorf("%s: %s: %w", m.rows[0].name, p.name, err)
			}
			values[i] = v
			for j, row := range m.rows {
				fmt.Printf("%-52s %-14s %10.2f %s (in %s)\n", row.name, p.name, v[j], row.unit, time.Since(begun).Round(time.Second))
			}
		}
		for j, row := range m.rows {
			fmt.Fprintf(w, "%s\t%s\t", row.name, row.unit)
			for _, v := range values {
				fmt.Fprintf(w, "%.2f\t", v[j])
			}
			for _, v := range values[1:] {
				fmt.Fprintf(w, "%.2f\t", row.ratio(values[0][j], v[j]))
			}
			fmt.Fprintln(w)
		}
	}
	if !found {
		return "", errors.New("no measure has the name asked for")
	}
	err := w.Flush()
	return out.String(), err
}

// ratio is how many times better ours is.
func (m reachRow) ratio(ours, theirs float64) float64 {
	if m.less {
		return theirs / ours
	}
	return ours / theirs
}

// measure runs one measure on a new cluster.
func (r *reach) measure(ctx context.Context, m reachMeasure, p reachProgram) (v []float64, err error) {
	dir, err := os.MkdirTemp(r.dir, "millrace-reach-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c := &reachCluster{}
	if c.Cluster, err = cluster.New(cluster.Options{Program: p.path, Storage: 3, Dir: dir, JetStream: p.jetStream}); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Start(); err != nil {
		return nil, err
	}
	forming, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := c.WaitFormed(forming, 0); err != nil {
		return nil, err
	}
	if c.nc, err = c.ConnectAny(c.Nodes[0]); err != nil {
		return nil, err
	}
	if c.js, err = jetstream.New(c.nc); err != nil {
		return nil, err
	}
	v, err = m.run(r, ctx, c)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, c.Nodes[0].Log.Tail(10))
	}
	return v, err
}

// leader is the node that leads a stream.
func (c *reachCluster) leader(ctx context.Context, name string) (*cluster.Node, error) {
	s, err := c.js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	info := s.CachedInfo()
	if info.Cluster == nil || c.Named(info.Cluster.Leader) == nil {
		return nil, fmt.Errorf("stream %s has no leader", name)
	}
	return c.Named(info.Cluster.Leader), nil
}

func (c *reachCluster) waitWhole(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, whole)
	defer cancel()
	return c.WaitHealthy(ctx)
}

// failover is the median time from the kill of a stream's leader to the first acknowledged publish, of a
// client of another node.
func (r *reach) failover(ctx context.Context, c *reachCluster) ([]float64, error) {
	const name = "FAILOVER"
	if _, err := c.js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3}); err != nil {
		return nil, err
	}
	var times []float64
	for range r.rounds {
		if err := c.waitWhole(ctx); err != nil {
			return nil, err
		}
		leader, err := c.leader(ctx, name)
		if err != nil {
			return nil, err
		}
		nc, err := c.Connect(c.Others(leader)[0])
		if err != nil {
			return nil, err
		}
		if _, err := nc.RequestWithContext(ctx, name, nil); err != nil {
			return nil, err
		}
		if err := leader.Kill(); err != nil {
			return nil, err
		}
		begun := time.Now()
		for {
			m, err := nc.Request(name, nil, 50*time.Millisecond)
			if err == nil && bytes.Contains(m.Data, []byte(`"seq"`)) {
				break
			}
			if time.Since(begun) > time.Minute || ctx.Err() != nil {
				return nil, fmt.Errorf("no acknowledgement a minute after the kill: %w", err)
			}
			if err != nil && !errors.Is(err, nats.ErrTimeout) {
				cluster.Poll()
			}
		}
		times = append(times, time.Since(begun).Seconds()*1000)
		nc.Close()
		if err := leader.Start(); err != nil {
			return nil, err
		}
	}
	return []float64{median(times)}, nil
}

// watchers is how many watchers a second a client creates, one after the other, each of which gets the
// values of all 20 keys.
func (r *reach) watchers(ctx context.Context, c *reachCluster) ([]float64, error) {
	kv, err := c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "W", Replicas: 3})
	if err != nil {
		return nil, err
	}
	for i := range 20 {
		if _, err := kv.PutString(ctx, fmt.Sprint("key", i), "value"); err != nil {
			return nil, err
		}
	}
	n := 0
	begun := time.Now()
	for ; time.Since(begun) < r.span; n++ {
		w, err := kv.WatchAll(ctx)
		if err != nil {
			return nil, err
		}
		for e := range w.Updates() {
			if e == nil {
				break
			}
		}
		if err := w.Stop(); err != nil {
			return nil, err
		}
	}
	return []float64{float64(n) / time.Since(begun).Seconds()}, nil
}

// watched is how many watchers a second a client creates, one after the other, each of a key of its own, that all
// stay.
func (r *reach) watched(ctx context.Context, c *reachCluster) ([]float64, error) {
	took, err := r.watch(ctx, c)
	if err != nil {
		return nil, err
	}
	return []float64{float64(r.watching) / took.Seconds()}, nil
}

// watchedPut is how many values a second a client puts, with many in flight, to keys that one of many watchers
// each watches.
func (r *reach) watchedPut(ctx context.Context, c *reachCluster) ([]float64, error) {
	if _, err := r.watch(ctx, c); err != nil {
		return nil, err
	}
	leader, err := c.leader(ctx, "KV_"+watchedBucket)
	if err != nil {
		return nil, err
	}
	nc, err := c.Connect(leader)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		return nil, err
	}
	n := 0
	begun := time.Now()
	for ; time.Since(begun) < r.span; n++ {
		if _, err := js.PublishAsync(watchedKey(n%min(20, r.watching)), []byte("value"), jetstream.WithStallWait(time.Minute)); err != nil {
			return nil, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return []float64{float64(n) / time.Since(begun).Seconds()}, nil
}

const watchedBucket = "W"

func watchedKey(i int) string { return fmt.Sprintf("$KV.%s.key%d", watchedBucket, i) }

// watch makes a bucket and watchers of it, each of which has got the value of its key when the next is made, and
// returns how long the watchers took.
func (r *reach) watch(ctx context.Context, c *reachCluster) (time.Duration, error) {
	// A bucket made as such takes no more than the 1000 consumers that a stream has by default.
	_, err := c.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "KV_" + watchedBucket, Subjects: []string{"$KV." + watchedBucket + ".>"}, Replicas: 3, MaxMsgsPerSubject: 1,
		MaxConsumers: 2 * r.watching, Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, AllowDirect: true,
	})
	if err != nil {
		return 0, err
	}
	for i := range r.watching {
		if _, err := c.js.PublishAsync(watchedKey(i), []byte("value"), jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	select {
	case <-c.js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	kv, err := c.js.KeyValue(ctx, watchedBucket)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	for i := range r.watching {
		w, err := kv.Watch(ctx, fmt.Sprint("key", i))
		if err != nil {
			return 0, fmt.Errorf("watcher %d: %w", i+1, err)
		}
		for e := range w.Updates() {
			if e == nil {
				break
			}
		}
		if i < 20 { // those whose keys are put to
			c.readers.Go(func() {
				for range w.Updates() { // until the connection ends
				}
			})
		}
	}
	return time.Since(begun), nil
}

// idle is the CPU of the average node while nobody does anything, with many streams.
func (r *reach) idle(ctx context.Context, c *reachCluster) ([]float64, error) {
	for i := range r.streams {
		name := fmt.Sprint("IDLE", i)
		try, cancel := context.WithTimeout(ctx, time.Minute)
		s, err := c.js.CreateStream(try, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3})
		if err == nil {
			_, err = s.CreateConsumer(try, jetstream.ConsumerConfig{Durable: "worker", AckPolicy: jetstream.AckExplicitPolicy})
		}
		cancel()
		if err != nil {
			return nil, fmt.Errorf("create stream %d of %d: %w", i+1, r.streams, err)
		}
	}
	// Waiting for all to be current would ask a lot; that the last is tells that the others are.
	settle, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := c.js.Stream(settle, fmt.Sprint("IDLE", r.streams-1))
	if err != nil {
		return nil, err
	}
	for {
		info, err := s.Info(settle)
		if err != nil {
			return nil, err
		}
		if info.Cluster != nil && info.Cluster.Leader != "" && !slices.ContainsFunc(info.Cluster.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current }) {
			break
		}
		cluster.Poll()
	}
	if err := pause(ctx, r.span); err != nil { // what creating them has left to do
		return nil, err
	}
	before, err := c.cpu()
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := pause(ctx, r.span); err != nil {
		return nil, err
	}
	after, err := c.cpu()
	if err != nil {
		return nil, err
	}
	return []float64{100 * (after - before).Seconds() / time.Since(begun).Seconds() / float64(len(c.Nodes))}, nil
}

// catchup is how fast a node gets a stream back that it has lost.
func (r *reach) catchup(ctx context.Context, c *reachCluster) ([]float64, error) {
	const name = "LOST"
	s, err := c.js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3})
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(c.nc, jetstream.WithPublishAsyncMaxPending(512))
	if err != nil {
		return nil, err
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	for sent := int64(0); sent < r.lost; sent += int64(len(data)) {
		if _, err := js.PublishAsync(name, data, jetstream.WithStallWait(time.Minute)); err != nil {
			return nil, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := c.waitWhole(ctx); err != nil {
		return nil, err
	}
	info, err := s.Info(ctx)
	if err != nil {
		return nil, err
	}
	node := c.Named(info.Cluster.Replicas[0].Name)
	if err := errors.Join(node.Kill(), node.Wipe(), node.Start()); err != nil {
		return nil, err
	}
	begun := time.Now()
	// A leader that has not noticed yet calls the node current: what is on its disk counts.
	for size := int64(0); size < int64(info.State.Bytes)*9/10; {
		if time.Since(begun) > whole {
			return nil, fmt.Errorf("%s has %d bytes after %s; the stream has %d", node.Name, size, time.Since(begun), info.State.Bytes)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil { // looking takes what the nodes could use
			return nil, err
		}
		if size, err = folderSize(node.Store()); err != nil {
			return nil, err
		}
	}
	if err := c.waitWhole(ctx); err != nil {
		return nil, err
	}
	speed := float64(info.State.Bytes) / time.Since(begun).Seconds() / 1e6
	leader := c.Named(info.Cluster.Leader)
	bare, err := copySpeed(ctx, leader.Store(), filepath.Join(filepath.Dir(leader.Store()), "copy"))
	if err != nil {
		return nil, err
	}
	return []float64{speed, 100 * speed / bare}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// copySpeed is how many MB/s a copy of the files of a folder into one file gives, its sync included. The file
// is removed.
func copySpeed(ctx context.Context, dir, to string) (speed float64, err error) {
	out, err := os.Create(to)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close(), os.Remove(to)) }()
	var size int64
	begun := time.Now()
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20))
		size += n
		return errors.Join(err, ctx.Err(), in.Close())
	})
	if err := errors.Join(err, out.Sync()); err != nil {
		return 0, err
	}
	return float64(size) / time.Since(begun).Seconds() / 1e6, nil
}

// folderSize is how many bytes the files of a folder have. Files that go away meanwhile do not count.
func folderSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
