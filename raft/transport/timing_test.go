package transport

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/raft"
)

// The tests here run in a bubble: time passes only when everybody waits.

// bubble returns a configuration with the defaults for durations.
func bubble(node uint64, n *pipes) Config {
	return Config{Node: node, Cluster: testCluster, Credentials: testSecret, Dial: n.dial}
}

// bubblePair starts the nodes 1 and 2 on a network of pipes.
func bubblePair(t *testing.T, n *pipes, change func(*Config)) (*end, *end) {
	one, two := bubble(1, n), bubble(2, n)
	if change != nil {
		change(&one)
		change(&two)
	}
	a, b := open(t, one), open(t, two)
	n.set("a", a)
	n.set("b", b)
	if err := errors.Join(b.AddPeer(1, []string{"a"}), a.AddPeer(2, []string{"b"})); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestTimingIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipes()
		a, b := bubblePair(t, n, nil)
		time.Sleep(time.Hour)
		for _, e := range []*end{a, b} {
			other := 3 - e.Stats().Node
			if up, changes := e.connected(other); !up || changes != 1 {
				t.Errorf("connected to %d: %v after %d changes", other, up, changes)
			}
			for _, l := range e.Stats().Peers[0].Lanes {
				if !l.Connected || l.Connects != 1 || l.ReceivedFrames != 0 {
					t.Errorf("%+v", l)
				}
			}
		}
		if n.count("a") != 0 || n.count("b") != 3 {
			t.Errorf("%d and %d calls, want none of node 2 and one for each lane of node 1", n.count("a"), n.count("b"))
		}
		a.Close()
		b.Close()
	})
}

// TestTimingBackoff counts attempts to reach nobody.
func TestTimingBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipes()
		first, second := open(t, bubble(1, n)), open(t, bubble(9, n))
		begin := time.Now()
		if err := errors.Join(first.AddPeer(5, []string{"nobody"}), second.AddPeer(5, []string{"no one"})); err != nil {
			t.Fatal(err)
		}
		steps := []struct {
			at            time.Duration
			nobodyMin     int
			nobodyMax     int
			noOneMin, max int
		}{
			{quick, 1, 1, 0, 0},
			{quick + 100*time.Millisecond, 2, 2, 0, 0},
			{time.Second, 4, 6, 0, 0},
			{time.Second + quick, 4, 6, 1, 1},
			{time.Minute, 16, 30, 16, 30},
			{time.Hour, 16 + 708, 30 + 1416, 16 + 708, 30 + 1416},
		}
		for _, s := range steps {
			time.Sleep(time.Until(begin.Add(s.at)))
			synctest.Wait()
			x, y := n.count("nobody"), n.count("no one")
			if x < 3*s.nobodyMin || x > 3*s.nobodyMax || y < 3*s.noOneMin || y > 3*s.max {
				t.Errorf("after %v: %d and %d attempts", s.at, x, y)
			}
		}
		if l := first.logs.count("level=WARN", "nobody at nobody"); l < 55 || l > 65 {
			t.Errorf("%d lines in an hour, want one a minute", l)
		}
		// Another address is tried at once, and a peer that is removed is not called.
		n.mu.Lock()
		clear(n.dials)
		n.mu.Unlock()
		first.AddPeer(5, []string{"no one else"})
		second.RemovePeer(5)
		time.Sleep(10 * time.Second)
		if n.count("no one else") < 3 || n.count("nobody") != 0 || n.count("no one") != 0 {
			t.Errorf("after a change: %v", n.dials)
		}
		first.Close()
		second.Close()
	})
}

// TestTimingHandshake meets ends that say nothing.
func TestTimingHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipes()
		a := open(t, bubble(2, n))
		x, y := net.Pipe()
		begin := time.Now()
		a.Accept(x)
		if _, err := y.Read(make([]byte, 1)); err == nil || time.Since(begin) != 5*time.Second {
			t.Errorf("a silent stranger is left after %v: %v", time.Since(begin), err)
		}
		synctest.Wait()
		if s := a.Stats(); s.Handshakes != 0 || s.Refused[errTimeout.Error()] != 1 {
			t.Errorf("%+v", s)
		}
		a.Close()

		// One that answers the hello slowly, byte by byte, has no more time.
		x, y = net.Pipe()
		a = open(t, bubble(2, n))
		a.AddPeer(1, nil)
		begin = time.Now()
		a.Accept(x)
		d := dialer()
		for _, b := range d.hello(raft.LaneAppend, 2, accepted).encode() {
			if _, err := y.Write([]byte{b}); err != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took > 5*time.Second+100*time.Millisecond {
			t.Errorf("a slow stranger is left after %v", took)
		}
		a.Close()
		y.Close()
	})
}

// ice freezes connections: from some moment on they lose what is written and bring nothing, not even
// their end.
type ice struct {
	mu sync.Mutex
	on bool
}

type frozen struct {
	net.Conn
	ice      *ice
	closed   chan struct{}
	once     sync.Once
	deadline time.Time
}

func (i *ice) wrap(nc net.Conn) net.Conn {
	return &frozen{Conn: nc, ice: i, closed: make(chan struct{})}
}

func (i *ice) freeze(on bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.on = on
}

func (i *ice) frozen() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.on
}

func (f *frozen) Write(b []byte) (int, error) {
	if f.ice.frozen() {
		return len(b), nil
	}
	return f.Conn.Write(b)
}

func (f *frozen) SetReadDeadline(at time.Time) error {
	f.deadline = at
	return f.thaw(f.Conn.SetReadDeadline(at))
}

func (f *frozen) SetWriteDeadline(at time.Time) error { return f.thaw(f.Conn.SetWriteDeadline(at)) }

// thaw hides an error, by which a pipe tells that its other end was closed.
func (f *frozen) thaw(err error) error {
	if f.ice.frozen() {
		return nil
	}
	return err
}

func (f *frozen) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

func (f *frozen) Read(b []byte) (int, error) {
	for {
		n, err := f.Conn.Read(b)
		if !f.ice.frozen() || errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		if err != nil {
			select {
			case <-f.closed:
				return 0, net.ErrClosed
			case <-time.After(time.Until(f.deadline)):
				return 0, os.ErrDeadlineExceeded
			}
		}
	}
}

// TestTimingDead holds that a connection that brings nothing is dropped by both ends, and made again.
func TestTimingDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipes()
		i := &ice{}
		n.wrap = i.wrap
		a, b := bubblePair(t, n, nil)
		time.Sleep(time.Minute)
		i.freeze(true)
		time.Sleep(6 * time.Second)
		if up, _ := a.connected(2); !up {
			t.Error("node 2 is down after 6 s of silence")
		}
		time.Sleep(10 * time.Second)
		for _, e := range []*end{a, b} {
			if up, changes := e.connected(3 - e.Stats().Node); up || changes != 2 {
				t.Errorf("node %d: after 16 s of silence connected is %v, %d changes", e.Stats().Node, up, changes)
			}
		}
		if a.logs.count("lane disconnected", "nothing received for 15s") != 3 {
			t.Error("the log does not say why")
		}
		i.freeze(false)
		time.Sleep(11 * time.Second)
		if up, _ := a.connected(2); !up {
			t.Error("not connected again")
		}
		a.Close()
		b.Close()
	})
}

// TestTimingQuickRetry holds that a connection that lived is replaced at once.
func TestTimingQuickRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipes()
		var mu sync.Mutex
		var all []net.Conn
		n.wrap = func(nc net.Conn) net.Conn {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, nc)
			return nc
		}
		a, b := bubblePair(t, n, nil)
		for range 3 {
			time.Sleep(2 * time.Second)
			mu.Lock()
			for _, c := range all {
				c.Close()
			}
			all = nil
			mu.Unlock()
			time.Sleep(quick)
			synctest.Wait()
			if up, changes := a.connected(2); !up || changes%2 != 1 {
				t.Errorf("not connected %v after a cut", quick)
			}
		}
		if _, changes := b.connected(1); changes != 7 {
			t.Errorf("%d changes after three cuts", changes)
		}
		a.Close()
		b.Close()
	})
}

// TestTimingHalfOpen lets node 2 lose its connections without node 1 hearing of it. The next call of
// node 2 tells.
func TestTimingHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipes()
		i := &ice{}
		n.wrap = i.wrap
		a, b := bubblePair(t, n, func(c *Config) { c.DeadAfter = time.Hour })
		time.Sleep(time.Minute)
		n.mu.Lock()
		n.wrap = nil
		n.mu.Unlock()
		i.freeze(true)
		p := (*b.peers.Load())[1]
		p.mu.Lock()
		for i := range p.slots {
			p.slots[i].current.shut(errors.New("cut"))
		}
		p.mu.Unlock()
		time.Sleep(900 * time.Millisecond)
		if _, changes := a.connected(2); changes != 1 {
			t.Fatal("node 1 has noticed: the test is worth nothing")
		}
		time.Sleep(200 * time.Millisecond)
		if up, changes := a.connected(2); !up || changes < 3 || changes > 5 { // down for each of two lanes
			t.Errorf("connected %v after %d changes at node 1", up, changes)
		}
		if !a.Send(2, raft.LaneControl, [][]byte{{1}}) {
			t.Error("no room")
		}
		synctest.Wait()
		if b.count(1, raft.LaneControl) != 1 {
			t.Error("the frame did not arrive")
		}
		a.Close()
		b.Close()
	})
}

// TestTimingStuckReceiver holds that a peer that reads nothing any more is given up after WriteTimeout,
// and that its other lanes go on meanwhile.
func TestTimingStuckReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newPipes()
		a, b := bubblePair(t, n, nil)
		time.Sleep(time.Second)
		stuck := make(chan struct{})
		b.recorder.mu.Lock()
		b.onFrame = func(p place, _ []byte) {
			if p.lane == raft.LaneBulk {
				<-stuck
			}
		}
		b.recorder.mu.Unlock()
		begin := time.Now()
		for range 8 {
			a.Send(2, raft.LaneBulk, [][]byte{make([]byte, 1<<20)})
		}
		for range 9 {
			time.Sleep(time.Second)
			a.Send(2, raft.LaneControl, [][]byte{{1}})
			a.Send(2, raft.LaneAppend, [][]byte{{1}})
		}
		synctest.Wait()
		if b.count(1, raft.LaneControl) != 9 || b.count(1, raft.LaneAppend) != 9 {
			t.Error("the other lanes were held up")
		}
		for a.Stats().Peers[0].Lanes[raft.LaneBulk].Connects == 1 && time.Since(begin) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("given up after %v", took)
		}
		s := a.Stats().Peers[0].Lanes[raft.LaneBulk]
		if s.QueueBytes != 0 || s.Dropped == 0 {
			t.Errorf("what was queued is not dropped: %+v", s)
		}
		if b.Stats().Peers[0].Lanes[raft.LaneBulk].Connects != 1 {
			t.Error("a connection is served while the one before is not done")
		}
		close(stuck)
		time.Sleep(10 * time.Second)
		if up, changes := a.connected(2); !up || changes != 1 || !a.Stats().Peers[0].Lanes[raft.LaneBulk].Connected {
			t.Errorf("connected %v after %d changes, bulk: %+v", up, changes, a.Stats().Peers[0].Lanes[raft.LaneBulk])
		}
		a.Close()
		b.Close()
	})
}
