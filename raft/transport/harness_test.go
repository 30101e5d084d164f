package transport

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/raft"
)

var testCluster = [16]byte{'c', 'l', 'u', 's', 't', 'e', 'r'}

var testSecret = secret("a secret of the cluster")

func secret(text string) Credentials {
	c, err := Secret([]byte(text))
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return c
}

// recorder is a receiver that keeps what it was told. It fails the test when it is called by two
// goroutines for one lane at a time.
type recorder struct {
	t testing.TB

	mu      sync.Mutex
	frames  map[place][][]byte
	changes map[uint64][]bool
	drained map[place]int
	busy    map[place]bool
	onFrame func(place, []byte) // called without mu
}

type place struct {
	node uint64
	lane raft.Lane
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{
		t: t, frames: map[place][][]byte{}, changes: map[uint64][]bool{}, drained: map[place]int{}, busy: map[place]bool{},
	}
}

func (r *recorder) enter(p place, f func()) {
	r.mu.Lock()
	if r.busy[p] {
		r.t.Errorf("receiver called twice at a time for %v", p)
	}
	r.busy[p] = true
	f()
	r.mu.Unlock()
}

func (r *recorder) leave(p place) {
	r.mu.Lock()
	r.busy[p] = false
	r.mu.Unlock()
}

// Receive keeps a frame.
func (r *recorder) Receive(node uint64, lane raft.Lane, frame []byte) {
	p := place{node, lane}
	r.enter(p, func() { r.frames[p] = append(r.frames[p], frame) })
	if r.onFrame != nil {
		r.onFrame(p, frame)
	}
	r.leave(p)
}

// Connected keeps a change, and fails the test if it is none.
func (r *recorder) Connected(node uint64, up bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.changes[node]); (n%2 == 0) != up {
		r.t.Errorf("Connected(%d, %v) after %v", node, up, r.changes[node])
	}
	r.changes[node] = append(r.changes[node], up)
}

// Drained counts.
func (r *recorder) Drained(node uint64, lane raft.Lane) {
	p := place{node, lane}
	r.enter(p, func() { r.drained[p]++ })
	r.leave(p)
}

func (r *recorder) count(node uint64, lane raft.Lane) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.frames[place{node, lane}])
}

func (r *recorder) got(node uint64, lane raft.Lane) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.frames[place{node, lane}])
}

func (r *recorder) drains(node uint64, lane raft.Lane) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drained[place{node, lane}]
}

// connected reports whether a node is, and how often that changed.
func (r *recorder) connected(node uint64) (bool, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.changes[node])
	return n%2 == 1, n
}

// logs collects log lines.
type logs struct {
	mu    sync.Mutex
	lines []string
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

func (l *logs) count(texts ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// end is one transport of a test with its receiver, its log and, with TCP, its address.
type end struct {
	*Transport
	*recorder
	logs    *logs
	address string
}

func (e *end) Close() { e.Transport.Close() }

// fast is a configuration for tests over real sockets.
func fast(node uint64) Config {
	return Config{
		Node: node, Cluster: testCluster, Credentials: testSecret,
		DialGrace: 20 * time.Millisecond, BackoffMin: 2 * time.Millisecond, BackoffMax: 20 * time.Millisecond,
	}
}

// begin starts a transport over TCP. It is closed at the end of the test.
func begin(t testing.TB, config Config) *end {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := open(t, config)
	e.address = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := e.Serve(listener); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		e.Close()
		serving.Wait()
	})
	return e
}

// open starts a transport that does not listen.
func open(t testing.TB, config Config) *end {
	t.Helper()
	e := &end{recorder: newRecorder(t), logs: &logs{}}
	if config.Logger == nil {
		config.Logger = e.logs.logger()
	}
	var err error
	if e.Transport, err = New(config); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(e.recorder); err != nil {
		t.Fatal(err)
	}
	return e
}

// pair starts the nodes 1 and 2 over TCP and waits until they are connected.
func pair(t testing.TB, change func(*Config)) (*end, *end) {
	t.Helper()
	one, two := fast(1), fast(2)
	if change != nil {
		change(&one)
		change(&two)
	}
	b := begin(t, two)
	if err := b.AddPeer(1, nil); err != nil {
		t.Fatal(err)
	}
	a := begin(t, one)
	if err := a.AddPeer(2, []string{b.address}); err != nil {
		t.Fatal(err)
	}
	waitLanes(t, a, 2)
	waitLanes(t, b, 1)
	return a, b
}

// waitLanes waits until all lanes to a node are connected.
func waitLanes(t testing.TB, e *end, node uint64) {
	t.Helper()
	waitFor(t, fmt.Sprintf("lanes to node %d", node), func() bool {
		for lane := range raft.Lane(raft.Lanes) {
			if e.Room(node, lane) == 0 {
				return false
			}
		}
		up, _ := e.connected(node)
		return up
	})
}

// waitFor waits for a condition.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// pipes is a network of net.Pipe between transports, for tests in a bubble. It refuses addresses that
// nobody has.
type pipes struct {
	mu    sync.Mutex
	ends  map[string]*end
	dials map[string]int
	wrap  func(net.Conn) net.Conn // of the dialer's end; nil: as it is
}

func newPipes() *pipes { return &pipes{ends: map[string]*end{}, dials: map[string]int{}} }

func (p *pipes) set(address string, e *end) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ends[address] = e
}

func (p *pipes) count(address string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dials[address]
}

func (p *pipes) dial(_ context.Context, address string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials[address]++
	e := p.ends[address]
	if e == nil {
		return nil, fmt.Errorf("nobody at %s", address)
	}
	ours, theirs := net.Pipe()
	e.Accept(theirs)
	if p.wrap != nil {
		ours = p.wrap(ours)
	}
	return ours, nil
}

// proxy passes TCP connections on to a target, and can damage them.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	closed bool
	refuse bool
	flip   int           // flip a bit of the byte that comes after this many more towards the target; -1: none
	hold   chan struct{} // while not nil, nothing is passed towards the target until it is closed
}

func newProxy(t testing.TB, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, flip: -1}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.release()
		listener.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) serve() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		no := p.refuse || p.closed
		p.mu.Unlock()
		out, err := net.Dial("tcp", p.target)
		if no || err != nil {
			in.Close()
			if err == nil {
				out.Close()
			}
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, in, out)
		if p.closed {
			in.Close()
			out.Close()
		}
		p.mu.Unlock()
		p.wg.Go(func() { p.pass(in, out, true) })
		p.wg.Go(func() { p.pass(out, in, false) })
	}
}

func (p *proxy) pass(from, to net.Conn, damage bool) {
	defer from.Close()
	defer to.Close()
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			if damage {
				p.damage(b[:n])
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) damage(b []byte) {
	p.mu.Lock()
	hold := p.hold
	if p.flip >= 0 {
		if p.flip < len(b) {
			b[p.flip] ^= 0x10
		}
		if p.flip -= len(b); p.flip < 0 {
			p.flip = -1
		}
	}
	p.mu.Unlock()
	if hold != nil {
		<-hold
	}
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *proxy) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = make(chan struct{})
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold != nil {
		close(p.hold)
		p.hold = nil
	}
}
