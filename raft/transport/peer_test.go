package transport

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"millrace/raft"
)

// fakeConn returns a connection with an incarnation of the peer, of a given age.
func fakeConn(t *testing.T, incarnation uint64, dialed bool, age time.Duration) *conn {
	nc, other := net.Pipe()
	t.Cleanup(func() {
		nc.Close()
		other.Close()
	})
	return &conn{
		nc: nc, dialed: dialed, since: time.Now().Add(-age), done: make(chan struct{}),
		peer: hello{node: 5, incarnation: incarnation, lane: raft.LaneAppend},
	}
}

// TestPeerJudge goes through the cases of two connections for one lane.
func TestPeerJudge(t *testing.T) {
	const young, old = time.Second, time.Hour
	const accepted, dialed = false, true
	tests := []struct {
		name       string
		node       uint64 // of this node; the peer is 5
		have       bool   // dialed
		age        time.Duration
		new        bool // dialed
		incarnate  uint64
		want       error
		haveIsShut bool
	}{
		{"we call first: ours stays", 1, dialed, young, accepted, 7, ErrDuplicate, false},
		{"we call first, ours is old: the other end has lost it", 1, dialed, old, accepted, 7, nil, false},
		{"we call first: ours replaces theirs", 1, accepted, young, dialed, 7, nil, false},
		{"they call first: theirs replaces ours", 9, dialed, young, accepted, 7, nil, false},
		{"they call first: theirs stays", 9, accepted, young, dialed, 7, ErrDuplicate, false},
		{"they call first: theirs stays though it is old", 9, accepted, old, dialed, 7, ErrDuplicate, false},
		{"they call again", 9, accepted, young, accepted, 7, nil, false},
		{"they call again, though we call first", 1, accepted, young, accepted, 7, nil, false},
		{"ours is shut", 1, dialed, young, accepted, 7, nil, true},
		{"a new process", 1, dialed, young, accepted, 8, nil, false},
		{"the process before", 1, dialed, young, accepted, 6, ErrTwoProcesses, false},
		{"the process before, and the newer one is gone", 1, dialed, young, accepted, 6, nil, true},
	}
	for _, test := range tests {
		s := &shared{config: Config{Node: test.node}.withDefaults()}
		p := newPeer(s, 5)
		p.enable(nil)
		l := p.lanes[raft.LaneAppend]
		first := fakeConn(t, 6, accepted, old)
		if err := p.offer(l, first); err != nil || p.take(l) != first {
			t.Fatal(err)
		}
		have := fakeConn(t, 7, test.have, test.age)
		if err := p.offer(l, have); err != nil || p.take(l) != have || first.alive() {
			t.Fatal(err)
		}
		if test.haveIsShut {
			have.shut(errHungUp)
		}
		c := fakeConn(t, test.incarnate, test.new, 0)
		if err := p.judge(l, c); !errors.Is(err, test.want) {
			t.Errorf("%s: judge: %v, want %v", test.name, err, test.want)
		}
		err := p.offer(l, c)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: offer: %v, want %v", test.name, err, test.want)
		}
		if have.alive() != (err != nil) && !test.haveIsShut || !c.alive() {
			t.Errorf("%s: have alive %v, new alive %v", test.name, have.alive(), c.alive())
		}
	}
}

// TestPeerNewProcess holds that the connections of all lanes end when one comes from a new process.
func TestPeerNewProcess(t *testing.T) {
	p := newPeer(&shared{config: Config{Node: 1}.withDefaults()}, 5)
	c := fakeConn(t, 7, true, 0)
	if err := p.offer(p.lanes[0], c); !errors.Is(err, ErrUnknownNode) {
		t.Errorf("offer to a peer that is none: %v", err)
	}
	p.enable(nil)
	var olds []*conn
	for i, l := range p.lanes {
		c := fakeConn(t, 7, true, 0)
		olds = append(olds, c)
		if err := p.offer(l, c); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			p.take(l)
		}
	}
	if err := p.offer(p.lanes[1], fakeConn(t, 8, false, 0)); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(olds, (*conn).alive) || p.take(p.lanes[0]) != nil {
		t.Error("a connection of the old process is left")
	}
}

// teller is a receiver that does something in Connected.
type teller struct {
	*recorder
	do func(up bool)
}

func (r teller) Connected(node uint64, up bool) {
	r.recorder.Connected(node, up)
	r.do(up)
}

// TestPeerTellsInOrder changes the state while the receiver is being told, which must neither nest nor
// lose the last state.
func TestPeerTellsInOrder(t *testing.T) {
	r := newRecorder(t)
	p := newPeer(&shared{config: Config{Node: 1}.withDefaults()}, 5)
	append, control, bulk := p.lanes[raft.LaneAppend], p.lanes[raft.LaneControl], p.lanes[raft.LaneBulk]
	depth, flaps := 0, 3
	p.receiver = teller{r, func(up bool) {
		if depth++; depth > 1 {
			t.Error("Connected called within Connected")
		}
		if up && flaps > 0 {
			flaps--
			for range 4 { // ends where it began: no change, or an odd number of them
				p.setUp(append, false)
				p.setUp(append, true)
			}
			p.setUp(control, flaps%2 == 0)
		}
		depth--
	}}
	p.setUp(bulk, true)
	p.setUp(control, true)
	if _, n := r.connected(5); n != 0 {
		t.Error("connected without all lanes that it takes")
	}
	p.setUp(append, true)
	p.setUp(control, true)
	p.setUp(bulk, false)
	if up, _ := r.connected(5); !up {
		t.Errorf("the last state is down: %v", fmt.Sprint(r.changes))
	}
	p.setUp(append, false)
	if up, _ := r.connected(5); up {
		t.Errorf("the last state is up: %v", fmt.Sprint(r.changes))
	}
}
