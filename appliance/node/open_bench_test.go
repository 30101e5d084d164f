package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/jetstream"
)

var openMost = flag.Int("open-most", 1_000_000, "messages in the largest store that BenchmarkOpen makes; 100000000 takes 7 GB and some minutes")

var openDir = flag.String("open-dir", "", "where BenchmarkOpen keeps its stores; those that are there already are not made again")

// openConf names, for a process that BenchmarkOpen starts, the configuration of the node to open.
const openConf = "MILLRACE_OPEN_CONF"

// BenchmarkOpen measures processes from the start of their node to its first acknowledged publish, against the
// number of small messages (16 bytes on 1000 subjects) that its stream holds: after the node was closed
// (open-ms), and after kill -9 while messages were published (killed-ms), with the memory that they have
// resident then (MiB, killed-MiB; peak-MiB is the most that any had).
func BenchmarkOpen(b *testing.B) {
	for n := 10_000; n <= *openMost; n *= 10 {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			if *openDir != "" {
				dir = filepath.Join(*openDir, fmt.Sprint(n))
			}
			conf := filepath.Join(dir, "node.conf")
			if _, err := os.Stat(conf); err != nil {
				fillStore(b, dir, conf, n)
			}
			first := startOpened(b, conf)
			first.close()
			stored := first.messages
			if stored < n {
				b.Fatalf("%d messages were stored, %d are there", n, stored)
			}
			var closed, killed []opened
			for b.Loop() {
				o := startOpened(b, conf)
				o.close()
				if closed = append(closed, *o); o.messages != stored+1 {
					b.Fatalf("%d messages were stored, %d are there", stored+1, o.messages)
				}
				k := startOpened(b, conf)
				stored = k.kill(min(n, 250_000*(1+len(killed)%4))) // where a snapshot was long ago, or just taken
				k = startOpened(b, conf)
				k.close()
				if killed = append(killed, *k); k.messages <= stored {
					b.Fatalf("%d messages were acknowledged, %d are there", stored+1, k.messages)
				}
				stored = k.messages
			}
			peak := 0.0
			for _, o := range slices.Concat(closed, killed) {
				peak = max(peak, o.peak)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(closed, func(o opened) float64 { return o.ms }), "open-ms")
			b.ReportMetric(median(closed, func(o opened) float64 { return o.mib }), "MiB")
			b.ReportMetric(median(killed, func(o opened) float64 { return o.ms }), "killed-ms")
			b.ReportMetric(median(killed, func(o opened) float64 { return o.mib }), "killed-MiB")
			b.ReportMetric(peak, "peak-MiB")
		})
	}
}

// fillStore makes a store with n messages, and its configuration when it is whole.
func fillStore(b *testing.B, dir, conf string, n int) {
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q, max_file_store: 1TB }\n", filepath.Join(dir, "store"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(conf+".new", []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	node := startBench(b, conf+".new")
	begin := time.Now()
	node.fill(n)
	b.Logf("%d messages stored in %s", n, time.Since(begin).Round(time.Millisecond))
	node.close()
	if err := os.Rename(conf+".new", conf); err != nil {
		b.Fatal(err)
	}
}

func median(all []opened, of func(opened) float64) float64 {
	var v []float64
	for _, o := range all {
		v = append(v, of(o))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// opened is a process that opened the node, and what it says of that.
type opened struct {
	b        *testing.B
	cmd      *exec.Cmd
	in       io.WriteCloser
	lines    *bufio.Scanner
	ms       float64 // from the start of the node to the first acknowledged publish
	messages int     // in the stream after it
	mib      float64 // resident then
	peak     float64 // at most until then
}

func startOpened(b *testing.B, conf string) *opened {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	o := &opened{b: b, cmd: exec.Command(exe, "-test.run=^TestOpenChild$")}
	o.cmd.Env = append(os.Environ(), openConf+"="+conf)
	out, err := o.cmd.StdoutPipe()
	if err == nil {
		o.in, err = o.cmd.StdinPipe()
	}
	if err == nil {
		err = o.cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	o.lines = bufio.NewScanner(out)
	if !o.lines.Scan() {
		b.Fatalf("the process ended: %v", o.cmd.Wait())
	}
	if _, err := fmt.Sscan(o.lines.Text(), &o.ms, &o.messages, &o.mib, &o.peak); err != nil {
		b.Fatalf("the process says %q: %v", o.lines.Text(), err)
	}
	return o
}

// close lets the process close the node and end.
func (o *opened) close() {
	if err := errors.Join(o.in.Close(), o.cmd.Wait()); err != nil {
		o.b.Fatal(err)
	}
}

// kill kills the process after it stored n messages more, and returns how many are in the stream at least.
func (o *opened) kill(n int) (stored int) {
	if _, err := io.WriteString(o.in, "publish\n"); err != nil {
		o.b.Fatal(err)
	}
	for acked := 0; acked < n; {
		if !o.lines.Scan() {
			o.b.Fatalf("the process ended: %v", o.cmd.Wait())
		}
		more := 0
		if _, err := fmt.Sscan(o.lines.Text(), &more); err != nil {
			o.b.Fatalf("the process says %q: %v", o.lines.Text(), err)
		}
		acked += more
		stored = o.messages + acked
	}
	if err := o.cmd.Process.Kill(); err != nil {
		o.b.Fatal(err)
	}
	if err := o.cmd.Wait(); err == nil {
		o.b.Fatal("the process was killed and ended well")
	}
	return stored
}

// TestOpenChild is the process of an opened: it opens the node, tells of it, publishes for ever when it is
// told to, and closes the node at the end of its input.
func TestOpenChild(t *testing.T) {
	conf := os.Getenv(openConf)
	if conf == "" {
		t.Skip("runs as a child of BenchmarkOpen only")
	}
	begin := time.Now()
	node := startBench(t, conf)
	node.publish(1)
	took := time.Since(begin)
	mib, peak := resident(t)
	var info struct {
		State struct{ Messages int }
	}
	if err := json.Unmarshal(node.call("STREAM.INFO.S"), &info); err != nil {
		t.Fatal(err)
	}
	fmt.Println(float64(took.Microseconds())/1000, info.State.Messages, mib, peak)
	if in := bufio.NewScanner(os.Stdin); in.Scan() {
		const piece = 1000
		for {
			node.publish(piece)
			fmt.Println(piece)
		}
	}
	node.close()
}

// resident returns what the process has in memory, and the most that it ever had, in MiB.
func resident(t *testing.T) (now, peak float64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(status)) {
		kib := 0.0
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			now = kib / 1024
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kib); n == 1 {
			peak = kib / 1024
		}
	}
	return now, peak
}

// benchClient is a node with a stream S, and somebody in the same process who publishes to it.
type benchClient struct {
	b    testing.TB
	node *Node
	acks chan struct{}
}

func startBench(b testing.TB, conf string) *benchClient {
	b.Helper()
	settings, err := Load(conf)
	if err != nil {
		b.Fatal(err)
	}
	node, err := Start(context.Background(), settings, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	c := &benchClient{b: b, node: node, acks: make(chan struct{}, 1<<20)}
	if _, err := (bus{node.broker.Account("$G")}).Subscribe("acks", "", func(m jetstream.Msg) {
		if bytes.Contains(m.Data, []byte("error")) {
			b.Errorf("publish: %s", m.Data)
		}
		c.acks <- struct{}{}
	}); err != nil {
		b.Fatal(err)
	}
	return c
}

func (c *benchClient) call(call string) []byte {
	answer, _ := c.node.engine.Local("$G").Request(context.Background(), call, nil)
	return answer
}

func (c *benchClient) close() {
	if err := c.node.Close(context.Background()); err != nil {
		c.b.Fatal(err)
	}
}

// fill makes the stream and stores n messages in it.
func (c *benchClient) fill(n int) {
	body := `{"name":"S","subjects":["s.*"],"num_replicas":1,"max_msgs":-1,"max_bytes":-1,"max_msgs_per_subject":-1,"max_msg_size":-1}`
	response, err := c.node.engine.Local("$G").Request(context.Background(), "STREAM.CREATE.S", []byte(body))
	if err != nil {
		panic(err)
	}
	answer := string(response)
	if strings.Contains(answer, `"error"`) {
		c.b.Fatal(answer)
	}
	c.publish(n)
}

// publish stores messages and returns when they are acknowledged.
func (c *benchClient) publish(n int) {
	const window = 20_000
	p := c.node.broker.Account("$G").NewPublisher()
	data := make([]byte, 16)
	for sent, acked := 0, 0; acked < n; {
		for sent < n && sent-acked < window {
			p.Publish(fmt.Sprintf("s.%d", sent%1000), "acks", nil, data)
			sent++
		}
		p.Flush()
		for ; acked < sent && (sent == n || sent-acked > window/2); acked++ {
			<-c.acks
		}
	}
}
