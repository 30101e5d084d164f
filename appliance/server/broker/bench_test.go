package broker_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"millrace/appliance/server/broker"
)

// counter reads a connection to the end and tells when it has seen a number of bytes.
type counter struct {
	nc   net.Conn
	want chan int64
	done chan struct{}
}

func count(nc net.Conn) *counter {
	c := &counter{nc, make(chan int64, 1), make(chan struct{})}
	go func() {
		buf := make([]byte, 256<<10)
		var got, want int64 = 0, -1
		for {
			select {
			case want = <-c.want:
			default:
			}
			if want < 0 || got < want {
				n, err := nc.Read(buf)
				if err != nil {
					return
				}
				got += int64(n)
				continue
			}
			close(c.done)
			return
		}
	}()
	return c
}

// BenchmarkPublish measures one publisher with a number of subscribers over loopback TCP. The time
// is that of the broker and of clients that do as little as possible.
func BenchmarkPublish(b *testing.B) {
	for _, subscribers := range []int{0, 1, 4} {
		for _, size := range []int{16, 128, 1024} {
			b.Run(fmt.Sprintf("subs=%d/size=%d", subscribers, size), func(b *testing.B) {
				br := newBroker(b, broker.Config{})
				addr := listen(b, br)
				var counters []*counter
				for range subscribers {
					c := dial(b, addr).hello(quiet)
					c.send("SUB bench.subject 1\r\n")
					c.sync()
					counters = append(counters, count(c.Conn))
				}
				pub := dial(b, addr).hello(quiet)
				one := fmt.Appendf(nil, "PUB bench.subject %d\r\n%s\r\n", size, strings.Repeat("x", size))
				out := int64(len(fmt.Sprintf("MSG bench.subject 1 %d\r\n%s\r\n", size, strings.Repeat("x", size))))
				const batch = 100
				many := bytes.Repeat(one, batch)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				b.ResetTimer()
				sent := 0
				for ; sent+batch <= b.N; sent += batch {
					pub.Write(many)
				}
				for ; sent < b.N; sent++ {
					pub.Write(one)
				}
				for _, c := range counters {
					c.want <- int64(b.N) * out
					// Wakes a reader that has seen everything before it was told how much.
					pub.Write(one)
				}
				for _, c := range counters {
					<-c.done
				}
				pub.sync()
			})
		}
	}
}

// BenchmarkRoute measures one publisher on one server and one subscriber on another, over loopback TCP.
func BenchmarkRoute(b *testing.B) {
	for _, size := range []int{16, 128, 1024} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			first := join(b, "first", nil)
			second := join(b, "second", nil, first.routes)
			meshed(b, first, second)
			sub := dial(b, second.clients).hello(quiet)
			sub.send("SUB bench.subject 1\r\n")
			sub.sync()
			interested(b, first, "bench.subject", true)
			counter := count(sub.Conn)
			pub := dial(b, first.clients).hello(quiet)
			one := fmt.Appendf(nil, "PUB bench.subject %d\r\n%s\r\n", size, strings.Repeat("x", size))
			out := int64(len(fmt.Sprintf("MSG bench.subject 1 %d\r\n%s\r\n", size, strings.Repeat("x", size))))
			const batch = 100
			many := bytes.Repeat(one, batch)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			sent := 0
			for ; sent+batch <= b.N; sent += batch {
				pub.Write(many)
			}
			for ; sent < b.N; sent++ {
				pub.Write(one)
			}
			counter.want <- int64(b.N) * out
			pub.Write(one) // wakes the reader
			<-counter.done
			pub.sync()
		})
	}
}

// BenchmarkUniqueReplies measures publishes from inside to subjects that are used once, such as the
// acknowledgements of streams, in bursts.
func BenchmarkUniqueReplies(b *testing.B) {
	subjects := make([]string, 4096)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("_INBOX.abcdefgh.%d", i)
	}
	ack := []byte(`{"stream":"ORDERS","seq":123456}`)
	prepare := func(b *testing.B) *broker.Account {
		br := newBroker(b, broker.Config{})
		c := dial(b, listen(b, br)).hello(quiet)
		c.send("SUB _INBOX.abcdefgh.* 1\r\n")
		c.sync()
		count(c.Conn)
		b.ReportAllocs()
		b.ResetTimer()
		return br.Account(broker.GlobalAccount)
	}
	b.Run("Publish", func(b *testing.B) {
		a := prepare(b)
		for i := range b.N {
			a.Publish(subjects[i%len(subjects)], "", nil, ack)
		}
	})
	b.Run("Publisher", func(b *testing.B) {
		p := prepare(b).NewPublisher()
		for i := range b.N {
			p.Publish(subjects[i%len(subjects)], "", nil, ack)
			if i%1000 == 999 {
				p.Flush()
			}
		}
		p.Flush()
	})
}

// BenchmarkInternalCallback measures a client's publishes into an internal subscription.
func BenchmarkInternalCallback(b *testing.B) {
	br := newBroker(b, broker.Config{})
	var wg sync.WaitGroup
	n := 0
	br.Account(broker.GlobalAccount).Subscribe("stream.>", "", func(m *broker.Msg) {
		if n++; n == b.N {
			wg.Done()
		}
	})
	pub := dial(b, listen(b, br)).hello(quiet)
	one := []byte("PUB stream.orders _INBOX.abcdefgh.123456 128\r\n" + strings.Repeat("x", 128) + "\r\n")
	many := bytes.Repeat(one, 100)
	b.ReportAllocs()
	b.ResetTimer()
	wg.Add(1)
	sent := 0
	for ; sent+100 <= b.N; sent += 100 {
		pub.Write(many)
	}
	for ; sent < b.N; sent++ {
		pub.Write(one)
	}
	wg.Wait()
}
