package node

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/jetstream"
)

var openMost = flag.Int("open-most", 1_000_000, "messages in the largest store that BenchmarkOpen makes; 100000000 takes 15 GB and some minutes")

// BenchmarkOpen measures the time from the start of a node to its first acknowledged publish, against the
// number of small messages (16 bytes on 1000 subjects) that its stream holds, and the heap after it.
func BenchmarkOpen(b *testing.B) {
	for n := 10_000; n <= *openMost; n *= 10 {
		b.Run(fmt.Sprintf("messages=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			conf := filepath.Join(dir, "node.conf")
			text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q, max_file_store: 1TB }\n", filepath.Join(dir, "store"))
			if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
			node := startBench(b, conf)
			begin := time.Now()
			node.fill(n)
			stored := n
			b.Logf("%d messages stored in %s", n, time.Since(begin).Round(time.Millisecond))
			node.close()
			heap := heapBytes()
			b.ResetTimer()
			for range b.N {
				node = startBench(b, conf)
				node.publish(1)
				b.StopTimer()
				stored++
				b.ReportMetric(float64(heapBytes()-heap)/(1<<20), "heap-MiB")
				if info := node.call("STREAM.INFO.S"); !bytes.Contains(info, fmt.Appendf(nil, `"messages":%d,`, stored)) {
					b.Fatalf("%d messages were stored: %s", stored, info)
				}
				node.close()
				b.StartTimer()
			}
		})
	}
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// benchClient is a node with a stream S, and somebody in the same process who publishes to it.
type benchClient struct {
	b    *testing.B
	node *Node
	acks chan struct{}
}

func startBench(b *testing.B, conf string) *benchClient {
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
