package transport

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/raft"
)

// counter is a receiver that counts and tells when it has all that it waits for.
type counter struct {
	bytes   atomic.Int64
	target  atomic.Int64
	reached chan struct{}
	echo    func(frame []byte)
	drained chan struct{}
}

func newCounter() *counter {
	return &counter{reached: make(chan struct{}, 1), drained: make(chan struct{}, 1)}
}

// Receive counts a frame, or sends it back.
func (c *counter) Receive(_ uint64, _ raft.Lane, frame []byte) {
	if c.echo != nil {
		c.echo(frame)
		return
	}
	if c.bytes.Add(int64(len(frame))) == c.target.Load() {
		c.reached <- struct{}{}
	}
}

// Connected does nothing.
func (c *counter) Connected(uint64, bool) {}

// Drained wakes the sender.
func (c *counter) Drained(uint64, raft.Lane) {
	select {
	case c.drained <- struct{}{}:
	default:
	}
}

// benchPair connects two transports over loopback.
func benchPair(b testing.TB, change func(*Config)) (one, two *Transport, at1, at2 *counter) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	at1, at2 = newCounter(), newCounter()
	start := func(node uint64, peers map[uint64][]string, r raft.Receiver) *Transport {
		c := fast(node)
		c.Peers = peers
		if change != nil {
			change(&c)
		}
		t, err := New(c)
		if err == nil {
			err = t.Start(r)
		}
		if err != nil {
			b.Fatal(err)
		}
		return t
	}
	two = start(2, map[uint64][]string{1: nil}, at2)
	var serving sync.WaitGroup
	serving.Go(func() { two.Serve(listener) })
	one = start(1, map[uint64][]string{2: {listener.Addr().String()}}, at1)
	b.Cleanup(func() {
		one.Close()
		two.Close()
		serving.Wait()
	})
	waitFor(b, "connections", func() bool { return one.Room(2, raft.LaneAppend) > 0 && two.Room(1, raft.LaneAppend) > 0 })
	return one, two, at1, at2
}

// loopback returns the two ends of a TCP connection.
func loopback(b testing.TB) (net.Conn, net.Conn) {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	x, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	y, err := listener.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}

// sendAll sends frames and waits until they have arrived.
func sendAll(t *Transport, from, to *counter, frame [][]byte, n int) {
	size := 0
	for _, p := range frame {
		size += len(p)
	}
	to.bytes.Store(0)
	to.target.Store(int64(n) * int64(size))
	for range n {
		for !t.Send(2, raft.LaneAppend, frame) {
			<-from.drained
		}
	}
	<-to.reached
}

// bare copies as many bytes through a TCP connection, in writes of 256 KiB.
func bare(x, y net.Conn, bytes int) time.Duration {
	b := make([]byte, 256<<10)
	begin := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		for left := bytes; left > 0; left -= len(b) {
			x.Write(b[:min(left, len(b))])
		}
	})
	io.CopyN(io.Discard, y, int64(bytes))
	wg.Wait()
	return time.Since(begin)
}

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkThroughput alternates between the transport and a bare copy of the same bytes. x-bare and
// x-bare-cpu are how many times as long it takes as the bare copy, and how many times the processor
// time. The processor time is that of both ends.
func BenchmarkThroughput(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			one, _, at1, at2 := benchPair(b, nil)
			x, y := loopback(b)
			frame := [][]byte{make([]byte, 64), make([]byte, size-64)}
			n := (64 << 20) / size
			var ours, theirs, oursCPU, theirsCPU time.Duration
			var before, after runtime.MemStats
			mallocs, frames := uint64(0), 0
			for b.Loop() {
				runtime.ReadMemStats(&before)
				begin, used := time.Now(), cpu()
				sendAll(one, at1, at2, frame, n)
				ours += time.Since(begin)
				oursCPU += cpu() - used
				runtime.ReadMemStats(&after)
				mallocs += after.Mallocs - before.Mallocs
				frames += n
				used = cpu()
				theirs += bare(x, y, n*size)
				theirsCPU += cpu() - used
			}
			mib := float64(frames*size) / (1 << 20)
			b.ReportMetric(mib/ours.Seconds(), "MiB/s")
			b.ReportMetric(mib/theirs.Seconds(), "bare-MiB/s")
			b.ReportMetric(ours.Seconds()/theirs.Seconds(), "x-bare")
			b.ReportMetric(oursCPU.Seconds()/theirsCPU.Seconds(), "x-bare-cpu")
			b.ReportMetric(float64(oursCPU.Nanoseconds())/float64(frames), "cpu-ns/frame")
			b.ReportMetric(float64(mallocs)/float64(frames), "allocs/frame")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkPingPong sends a small frame back and forth, and does the same with bare reads and writes.
func BenchmarkPingPong(b *testing.B) {
	one, two, at1, at2 := benchPair(b, nil)
	back := make(chan struct{}, 1)
	at2.echo = func(frame []byte) { two.Send(1, raft.LaneAppend, [][]byte{frame}) }
	at1.echo = func([]byte) { back <- struct{}{} }
	x, y := loopback(b)
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(struct{ io.Writer }{y}, struct{ io.Reader }{y}) })
	frame := [][]byte{make([]byte, 100)}
	buffer := make([]byte, 100+headerSize)
	var ours, theirs time.Duration
	for b.Loop() {
		begin := time.Now()
		for range 100 {
			one.Send(2, raft.LaneAppend, frame)
			<-back
		}
		middle := time.Now()
		for range 100 {
			x.Write(buffer)
			io.ReadFull(x, buffer)
		}
		ours += middle.Sub(begin)
		theirs += time.Since(middle)
	}
	trips := 100 * float64(b.N)
	b.ReportMetric(float64(ours.Nanoseconds())/trips, "ns/trip")
	b.ReportMetric(float64(theirs.Nanoseconds())/trips, "bare-ns/trip")
	b.ReportMetric(0, "ns/op")
	x.Close()
	wg.Wait()
}

// TestTransportAllocates holds that sending allocates nothing, and receiving the frame only.
func TestTransportAllocates(t *testing.T) {
	one, _, at1, at2 := benchPair(t, nil)
	frame := [][]byte{make([]byte, 64), make([]byte, 960)}
	const frames = 20000
	sendAll(one, at1, at2, frame, frames)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sendAll(one, at1, at2, frame, frames)
	runtime.ReadMemStats(&after)
	if n := float64(after.Mallocs-before.Mallocs) / frames; n > 1.1 {
		t.Errorf("%.2f allocations for each frame, want 1", n)
	}
}
