package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/raft"
)

var (
	_ raft.Transport = (*Transport)(nil)
	_ raft.Receiver  = (*recorder)(nil)
)

func TestTransportDelivers(t *testing.T) {
	a, b := pair(t, nil)
	sizes := []int{0, 1, 23, 24, 1000, copyBuffer - headerSize, copyBuffer, 256 << 10, 256<<10 + 1, 1 << 20, 3<<20 + 7}
	random := rand.NewChaCha8([32]byte{1})
	for lane := range raft.Lane(raft.Lanes) {
		for direction, way := range []struct{ from, to *end }{{a, b}, {b, a}} {
			from, to := uint64(direction+1), uint64(2-direction)
			var want [][]byte
			for _, size := range sizes {
				frame := make([]byte, size)
				random.Read(frame)
				want = append(want, frame)
				cut := size / 3
				parts := [][]byte{frame[:cut], nil, frame[cut : 2*cut], frame[2*cut:]}
				waitFor(t, "room", func() bool { return way.from.Send(to, lane, parts) })
			}
			waitFor(t, "frames", func() bool { return way.to.count(from, lane) == len(want) })
			for i, frame := range way.to.got(from, lane) {
				if !bytes.Equal(frame, want[i]) {
					t.Errorf("lane %d: frame %d of %d bytes differs", lane, i, len(want[i]))
				}
				if cap(frame) > len(frame) && len(frame) > 64 {
					t.Errorf("lane %d: frame %d has %d bytes behind it", lane, i, cap(frame)-len(frame))
				}
			}
		}
	}
	waitFor(t, "counters", func() bool { return a.Stats().Peers[0].Lanes[0].SentFrames == uint64(len(sizes)) })
	for _, l := range a.Stats().Peers[0].Lanes {
		if l.SentFrames != uint64(len(sizes)) || l.ReceivedFrames != uint64(len(sizes)) || l.SentBytes != l.ReceivedBytes ||
			l.QueueBytes != 0 || l.Lost != 0 || l.Dropped != 0 || !l.Connected || l.Connects != 1 {
			t.Errorf("stats: %+v", l)
		}
	}
}

// TestTransportFramesAreTheReceivers holds that a frame stays as it is while others arrive.
func TestTransportFramesAreTheReceivers(t *testing.T) {
	a, b := pair(t, nil)
	const frames = 2000
	for i := range frames {
		frame := bytes.Repeat([]byte{byte(i)}, 1+i%700)
		waitFor(t, "room", func() bool { return a.Send(2, raft.LaneAppend, [][]byte{frame}) })
	}
	waitFor(t, "frames", func() bool { return b.count(1, raft.LaneAppend) == frames })
	got := b.got(1, raft.LaneAppend)
	for i, frame := range got {
		if len(frame) != 1+i%700 || bytes.Count(frame, []byte{byte(i)}) != len(frame) {
			t.Fatalf("frame %d has changed", i)
		}
		_ = append(frame, 0xff) // must not reach the next one
	}
	for i, frame := range got {
		if bytes.Count(frame, []byte{byte(i)}) != len(frame) {
			t.Fatalf("frame %d shares memory with another", i)
		}
	}
}

func TestTransportRefusesFrames(t *testing.T) {
	a, b := pair(t, func(c *Config) {
		c.MaxFrame = 1000 * int(c.Node) // 2 takes larger ones than 1
	})
	if b.Send(1, raft.LaneAppend, [][]byte{make([]byte, 600), make([]byte, 401)}) {
		t.Error("a frame larger than the other end takes was sent")
	}
	if room := b.Room(1, raft.LaneAppend); room != 1000 {
		t.Errorf("room %d, the largest frame is 1000", room)
	}
	if a.Send(2, raft.LaneAppend, [][]byte{make([]byte, 1001)}) {
		t.Error("a frame larger than the own bound was sent")
	}
	if !b.Send(1, raft.LaneAppend, [][]byte{make([]byte, 1000)}) {
		t.Error("a frame of the largest size was refused")
	}
	if a.Send(3, raft.LaneAppend, [][]byte{{1}}) || a.Send(1, raft.LaneAppend, [][]byte{{1}}) || a.Room(3, raft.LaneAppend) != 0 {
		t.Error("a frame to a node that is no peer was sent")
	}
	waitFor(t, "frame", func() bool { return a.count(2, raft.LaneAppend) == 1 })
	if n := a.drains(2, raft.LaneAppend) + b.drains(1, raft.LaneAppend); n != 0 {
		t.Errorf("%d times drained, though no lane was full", n)
	}
}

// numbered sends numbers on a lane until it is told to stop, and returns how many were taken.
func numbered(e *end, node uint64, lane raft.Lane, stop <-chan struct{}) uint64 {
	n := uint64(0)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return n
		default:
		}
		b := binary.LittleEndian.AppendUint64(make([]byte, 0, 100), n)
		if e.Send(node, lane, [][]byte{b, make([]byte, n%90)}) {
			n++
		}
		if n%32 == 0 {
			<-tick.C // or the test is about memory
		}
	}
}

// checkNumbers fails the test if frames of numbered are out of order or came twice, and returns how
// many there are.
func checkNumbers(t *testing.T, frames [][]byte) int {
	t.Helper()
	next := uint64(0)
	for i, b := range frames {
		n := binary.LittleEndian.Uint64(b)
		if n < next {
			t.Fatalf("frame %d has number %d after %d", i, n, next-1)
		}
		if len(b) != 8+int(n%90) {
			t.Fatalf("frame %d: number %d with %d bytes", i, n, len(b))
		}
		next = n + 1
	}
	return len(frames)
}

// TestTransportReconnects cuts and corrupts the connections while both ends send on all lanes: what
// arrives is in order, unchanged, and came once, and all that did not is counted.
func TestTransportReconnects(t *testing.T) {
	b := begin(t, fast(2))
	proxies := []*proxy{newProxy(t, b.address), newProxy(t, b.address)}
	a := begin(t, fast(1))
	if err := errors.Join(b.AddPeer(1, nil), a.AddPeer(2, []string{proxies[0].address(), proxies[1].address()})); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, a, 2)
	stop := make(chan struct{})
	var senders sync.WaitGroup
	taken := [raft.Lanes]uint64{}
	for lane := range raft.Lane(raft.Lanes) {
		senders.Go(func() { taken[lane] = numbered(a, 2, lane, stop) })
		senders.Go(func() { numbered(b, 1, lane, stop) })
	}
	const rounds = 12
	for i := range rounds {
		before := b.count(1, raft.LaneAppend)
		waitFor(t, "frames in every round", func() bool { return b.count(1, raft.LaneAppend) > before+100 })
		if i%2 == 0 {
			for _, p := range proxies {
				p.cut()
			}
		} else {
			for _, p := range proxies {
				p.mu.Lock()
				p.flip = 5000 * i
				p.mu.Unlock()
			}
			connects := connectsOf(b)
			waitFor(t, "a connection that replaces the corrupted one", func() bool { return connects != connectsOf(b) })
		}
	}
	close(stop)
	senders.Wait()
	for lane := range raft.Lane(raft.Lanes) {
		var out, in LaneStats
		settled := func() bool {
			out, in = a.Stats().Peers[0].Lanes[lane], b.Stats().Peers[0].Lanes[lane]
			return in.ReceivedFrames+in.Lost+out.Dropped == taken[lane] && out.SentFrames+out.Dropped == taken[lane]
		}
		// The ping that opens the next connection tells what was lost with the last one.
		waitFor(t, "all frames to be accounted for", settled)
		got := checkNumbers(t, b.got(1, lane))
		checkNumbers(t, a.got(2, lane))
		if in.ReceivedFrames != uint64(got) {
			t.Errorf("lane %d: %d frames delivered, %d received", lane, got, in.ReceivedFrames)
		}
		t.Logf("lane %d: %d sent, %d arrived, %d lost on the way, %d dropped, %d connections", lane, taken[lane], got, in.Lost, out.Dropped, in.Connects)
	}
	corrupt := uint64(0)
	for _, l := range b.Stats().Peers[0].Lanes {
		corrupt += l.Corrupt
	}
	if corrupt == 0 || b.logs.count("level=ERROR", "lane disconnected", "corrupt") == 0 {
		t.Errorf("%d corrupt connections reported, and a log line for %d", corrupt, b.logs.count("level=ERROR"))
	}
}

func connectsOf(e *end) uint64 {
	n := uint64(0)
	for _, l := range e.Stats().Peers[0].Lanes {
		n += l.Connects
	}
	return n
}

// TestTransportSlowPeer holds that a peer that takes nothing costs its own queue and nobody else.
func TestTransportSlowPeer(t *testing.T) {
	limits := [raft.Lanes]LaneConfig{{QueueBytes: 64 << 10}, {QueueBytes: 256 << 10}, {QueueBytes: 64 << 10}}
	config := fast(1)
	config.Lanes = limits
	a := begin(t, config)
	slow, quick := begin(t, fast(2)), begin(t, fast(3))
	p := newProxy(t, slow.address)
	peers := map[uint64][]string{2: {p.address()}, 3: {quick.address}}
	if err := errors.Join(slow.AddPeer(1, nil), quick.AddPeer(1, nil), a.SetPeers(peers)); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, a, 2)
	waitLanes(t, a, 3)

	p.stop()
	frame := [][]byte{make([]byte, 10<<10)}
	taken := 0
	// The system's buffers take some MiB before the queue fills up, and it stays full.
	full := func() bool {
		for a.Send(2, raft.LaneAppend, frame) {
			taken++
		}
		stats := a.Stats().Peers[0].Lanes[raft.LaneAppend]
		return stats.Refused > 1000 && stats.QueueBytes > limits[raft.LaneAppend].QueueBytes-20<<10
	}
	waitFor(t, "a full queue", full)
	if used := a.Stats().Peers[0].Lanes[raft.LaneAppend].QueueBytes; used > limits[raft.LaneAppend].QueueBytes {
		t.Errorf("queue of %d bytes, bound %d", used, limits[raft.LaneAppend].QueueBytes)
	}
	drains := a.drains(2, raft.LaneAppend)

	const frames = 500
	for i := range frames {
		waitFor(t, "room to the quick peer", func() bool { return a.Send(3, raft.LaneAppend, frame) })
		waitFor(t, "the quick peer", func() bool { return quick.count(1, raft.LaneAppend) >= i-20 })
	}
	waitFor(t, "the quick peer", func() bool { return quick.count(1, raft.LaneAppend) == frames })
	if !a.Send(2, raft.LaneControl, [][]byte{{1}}) {
		t.Error("the control lane to the slow peer is not its own")
	}

	if slow.count(1, raft.LaneAppend) >= taken {
		t.Fatal("the slow peer was not slow")
	}
	p.release()
	waitFor(t, "the slow peer", func() bool { return slow.count(1, raft.LaneAppend) == taken && slow.count(1, raft.LaneControl) == 1 })
	waitFor(t, "drained", func() bool { return a.drains(2, raft.LaneAppend) > drains })
	if _, changes := a.connected(2); changes != 1 {
		t.Errorf("connected changed %d times", changes)
	}
}

// TestTransportRestart replaces a process by another one with the same node id, while its old
// connections look alive.
func TestTransportRestart(t *testing.T) {
	a, b := pair(t, nil)
	if !a.Send(2, raft.LaneControl, [][]byte{{1}}) {
		t.Fatal("no room")
	}
	waitFor(t, "frame", func() bool { return b.count(1, raft.LaneControl) == 1 })

	again := begin(t, fast(1))
	if err := again.AddPeer(2, []string{b.address}); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, again, 2)
	waitFor(t, "node 1 left and came back", func() bool { _, n := b.connected(1); return n >= 3 })
	waitFor(t, "a frame of the new process", func() bool {
		again.Send(2, raft.LaneControl, [][]byte{{2}})
		got := b.got(1, raft.LaneControl)
		return got[len(got)-1][0] == 2
	})

	// The first process still lives and comes back: that is a mistake of the operator.
	waitFor(t, "a complaint at both ends", func() bool {
		return b.logs.count("level=WARN", "two processes with the same node id") > 0 &&
			a.logs.count("level=WARN", "refused by the other end", "two processes with the same node id") > 0
	})
	if up, _ := b.connected(1); !up {
		t.Error("the new process was disconnected for that")
	}
}

// TestTransportBothCall lets both nodes call each other at the same time: one connection for each lane
// is left.
func TestTransportBothCall(t *testing.T) {
	one, two := fast(1), fast(2)
	one.DialGrace, two.DialGrace = 1, 1
	for range 5 {
		a, b := begin(t, one), begin(t, two)
		var calls sync.WaitGroup
		calls.Go(func() { a.AddPeer(2, []string{b.address}) })
		calls.Go(func() { b.AddPeer(1, []string{a.address}) })
		calls.Wait()
		waitLanes(t, a, 2)
		waitLanes(t, b, 1)
		waitFor(t, "connections that both know", func() bool {
			for lane := range raft.Lanes {
				x, y := a.Stats().Peers[0].Lanes[lane], b.Stats().Peers[0].Lanes[lane]
				if !x.Connected || !y.Connected || x.Dialed == y.Dialed {
					return false
				}
				if both := y.Connects > 1; both && !x.Dialed {
					t.Fatal("there were two connections, and not that of node 1 is left")
				}
			}
			return true
		})
		for i := range 10 {
			waitFor(t, "room", func() bool { return a.Send(2, raft.LaneAppend, [][]byte{{byte(i)}}) })
			waitFor(t, "room", func() bool { return b.Send(1, raft.LaneAppend, [][]byte{{byte(i)}}) })
		}
		waitFor(t, "frames", func() bool { return a.count(2, raft.LaneAppend) == 10 && b.count(1, raft.LaneAppend) == 10 })
		a.Close()
		b.Close()
	}
}

// TestTransportCalledByTheOther connects nodes of which only the one with the greater id has an address.
func TestTransportCalledByTheOther(t *testing.T) {
	a, b := begin(t, fast(1)), begin(t, fast(2))
	if err := errors.Join(a.AddPeer(2, []string{"127.0.0.1:1"}), b.AddPeer(1, []string{a.address})); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, a, 2)
	waitLanes(t, b, 1)
}

func TestTransportPeersChange(t *testing.T) {
	a, b := pair(t, nil)
	a.RemovePeer(2)
	waitFor(t, "disconnected", func() bool {
		x, _ := a.connected(2)
		y, _ := b.connected(1)
		return !x && !y
	})
	if a.Send(2, raft.LaneControl, [][]byte{{1}}) || len(a.Stats().Peers) != 0 {
		t.Error("a removed peer is still there")
	}
	if err := b.AddPeer(1, []string{a.address}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "refusals at both ends", func() bool {
		return a.logs.count("level=WARN", "refused connection", "unknown node", "node=2") == 1 &&
			b.logs.count("level=WARN", "refused by the other end", "unknown node") == 1
	})
	if err := a.SetPeers(map[uint64][]string{2: nil}); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, a, 2)
	waitLanes(t, b, 1)
	// The process is the same, so the numbers go on: a frame is not taken for an old one.
	if !b.Send(1, raft.LaneControl, [][]byte{{7}}) || !a.Send(2, raft.LaneControl, [][]byte{{8}}) {
		t.Error("no room after the peer came back")
	}
	waitFor(t, "frames", func() bool { return a.count(2, raft.LaneControl) == 1 && b.count(1, raft.LaneControl) == 1 })
	if err := a.SetPeers(nil); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "disconnected", func() bool { x, _ := a.connected(2); return !x })

	for _, node := range []uint64{0, 1} {
		if err := a.AddPeer(node, nil); !errors.Is(err, ErrPeer) {
			t.Errorf("AddPeer(%d): %v", node, err)
		}
		if err := a.SetPeers(map[uint64][]string{3: nil, node: nil}); !errors.Is(err, ErrPeer) || len(a.Stats().Peers) != 0 {
			t.Errorf("SetPeers with %d: %v", node, err)
		}
	}
}

// TestTransportDrainedAfterReconnect holds that who was refused because a lane was not connected hears
// of it, for the bulk lane too, which Connected does not speak of.
func TestTransportDrainedAfterReconnect(t *testing.T) {
	b := begin(t, fast(2))
	a := begin(t, fast(1))
	if err := errors.Join(b.AddPeer(1, nil), a.AddPeer(2, nil)); err != nil {
		t.Fatal(err)
	}
	if a.Send(2, raft.LaneBulk, [][]byte{{1}}) {
		t.Fatal("sent without a connection")
	}
	if err := a.AddPeer(2, []string{b.address}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "drained", func() bool { return a.drains(2, raft.LaneBulk) == 1 })
	if !a.Send(2, raft.LaneBulk, [][]byte{{1}}) || a.drains(2, raft.LaneAppend) != 0 {
		t.Error("drained without room, or a lane that refused nothing")
	}
}

// TestTransportOneCallAtATime holds that Drained waits for Receive of the same lane. The recorder fails
// the test otherwise.
func TestTransportOneCallAtATime(t *testing.T) {
	a, b := pair(t, func(c *Config) { c.Lanes[raft.LaneAppend].QueueBytes = 1000 })
	busy, entered := make(chan struct{}), make(chan struct{})
	a.recorder.mu.Lock()
	a.onFrame = func(place, []byte) {
		close(entered)
		<-busy
	}
	a.recorder.mu.Unlock()
	b.Send(1, raft.LaneAppend, [][]byte{{1}})
	<-entered
	for a.Send(2, raft.LaneAppend, [][]byte{make([]byte, 100)}) {
	}
	waitFor(t, "half an empty queue", func() bool { return a.Stats().Peers[0].Lanes[raft.LaneAppend].QueueBytes <= 500 })
	if a.drains(2, raft.LaneAppend) != 0 {
		t.Error("Drained within Receive")
	}
	close(busy)
	waitFor(t, "drained", func() bool { return a.drains(2, raft.LaneAppend) == 1 })
}

// TestTransportStrangers holds that connections that are not authenticated are bounded in number, bytes
// and what they get to know.
func TestTransportStrangers(t *testing.T) {
	config := fast(2)
	config.MaxHandshakes = 4
	b := begin(t, config)
	if err := b.AddPeer(1, nil); err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", b.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	var idle []net.Conn
	for range 10 {
		idle = append(idle, dial())
	}
	waitFor(t, "evictions", func() bool { s := b.Stats(); return s.Evicted == 6 && s.Handshakes == 4 })
	for _, c := range idle[:6] {
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Error("an evicted connection got bytes")
		}
	}
	// Those who wait do not keep others out.
	a := begin(t, fast(1))
	if err := a.AddPeer(2, []string{b.address}); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, a, 2)

	for _, text := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT {}\r\nPING\r\n", strings.Repeat("x", 1<<16),
		Magic + "\xff\xff" + strings.Repeat("x", 1<<16), Magic + "\x60\x00" + strings.Repeat("\x01", 86),
	} {
		c := dial()
		c.Write([]byte(text))
		b := make([]byte, 1)
		if n, err := c.Read(b); n > 0 || err == nil {
			t.Errorf("%.20q was answered with %x", text, b[:n])
		}
	}
	waitFor(t, "refusals", func() bool { return b.Stats().Refused[ErrProtocol.Error()] == 5 })
	if n := b.logs.count("level=WARN", "broken protocol"); n != 1 {
		t.Errorf("%d lines about strangers, want 1 a minute", n)
	}
	if up, n := b.connected(1); !up || n != 1 {
		t.Error("the peer was disturbed")
	}
}

// TestTransportClose closes at a bad time, and finds no goroutine left.
func TestTransportClose(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		a, b := begin(t, fast(1)), begin(t, fast(2))
		stop := make(chan struct{})
		var senders sync.WaitGroup
		if err := errors.Join(a.AddPeer(2, []string{b.address}), b.AddPeer(1, []string{a.address})); err != nil {
			t.Fatal(err)
		}
		senders.Go(func() { numbered(a, 2, raft.LaneAppend, stop) })
		waitFor(t, "some frames", func() bool { return b.count(1, raft.LaneAppend) > 100 })
		b.Close()
		a.Close()
		close(stop)
		senders.Wait()
		if up, _ := a.connected(2); up || a.Send(2, raft.LaneAppend, [][]byte{{1}}) {
			t.Error("connected after Close")
		}
		a.Close()
		n := b.count(1, raft.LaneAppend)
		checkNumbers(t, b.got(1, raft.LaneAppend))
		if n != b.count(1, raft.LaneAppend) {
			t.Error("delivered after Close")
		}
		if err := a.Start(a.recorder); !errors.Is(err, ErrClosed) {
			t.Errorf("Start after Close: %v", err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Serve(listener); !errors.Is(err, ErrClosed) {
			t.Errorf("Serve after Close: %v", err)
		}
		x, y := net.Pipe()
		a.Accept(x)
		if _, err := y.Write([]byte{1}); err == nil {
			t.Error("a connection was accepted after Close")
		}
	}
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

func TestConfigValidate(t *testing.T) {
	tests := []struct {
		want   string
		change func(*Config)
	}{
		{"Node is 0", func(c *Config) { c.Node = 0 }},
		{"Cluster is all zero", func(c *Config) { c.Cluster = [16]byte{} }},
		{"Credentials are missing", func(c *Config) { c.Credentials = Credentials{} }},
		{"MaxFrame -1", func(c *Config) { c.MaxFrame = -1 }},
		{"MaxFrame 1073741825", func(c *Config) { c.MaxFrame = 1<<30 + 1 }},
		{"MaxHandshakes is negative", func(c *Config) { c.MaxHandshakes = -1 }},
		{"WriteTimeout is negative", func(c *Config) { c.WriteTimeout = -1 }},
		{"BackoffMin 2ns is above BackoffMax 1ns", func(c *Config) { c.BackoffMin, c.BackoffMax = 2, 1 }},
		{"DeadAfter 1ns is below three PingInterval 4s", func(c *Config) { c.DeadAfter = 1 }},
		{"QueueBytes -1 of lane 1", func(c *Config) { c.Lanes[1].QueueBytes = -1 }},
		{"BatchBytes -1 of lane 2", func(c *Config) { c.Lanes[2].BatchBytes = -1 }},
		{"no such peer possible: 1 at node 1", func(c *Config) { c.Peers = map[uint64][]string{1: nil} }},
	}
	for _, test := range tests {
		config := fast(1)
		test.change(&config)
		if _, err := New(config); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	if _, err := Password("route", ""); err == nil {
		t.Error("an empty password was taken")
	}
	if _, err := Secret([]byte("short")); err == nil {
		t.Error("a short secret was taken")
	}
}

func ExampleTransport() {
	credentials, _ := Password("route", "a password of the cluster")
	cluster := [16]byte{1, 2, 3}
	listener, _ := net.Listen("tcp", "127.0.0.1:0")

	two, _ := New(Config{Node: 2, Cluster: cluster, Credentials: credentials, Peers: map[uint64][]string{1: nil}})
	arrived := make(printer)
	two.Start(arrived)
	var wg sync.WaitGroup
	wg.Go(func() { two.Serve(listener) })

	one, _ := New(Config{
		Node: 1, Cluster: cluster, Credentials: credentials, Peers: map[uint64][]string{2: {listener.Addr().String()}},
	})
	connected := make(printer)
	one.Start(connected)
	fmt.Println(<-connected)
	one.Send(2, raft.LaneAppend, [][]byte{[]byte("head, "), []byte("body")})
	fmt.Println(<-arrived)
	fmt.Println(<-arrived)
	one.Close()
	two.Close()
	wg.Wait()
	// Unordered output:
	// node 2 connected: true
	// node 1 connected: true
	// node 1 lane 1: head, body
}

// printer is a receiver for the example.
type printer chan string

func (p printer) Receive(node uint64, lane raft.Lane, frame []byte) {
	p <- fmt.Sprintf("node %d lane %d: %s", node, lane, frame)
}

func (p printer) Connected(node uint64, up bool) {
	if up {
		p <- fmt.Sprintf("node %d connected: %v", node, up)
	}
}

func (p printer) Drained(uint64, raft.Lane) {}
