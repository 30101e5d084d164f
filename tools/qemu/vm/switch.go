package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// maxFrame bounds an Ethernet frame with what the emulator adds to it, in bytes: its largest is one
	// that the guest leaves to the network card to cut.
	maxFrame = 128 << 10

	// maxQueue is how many frames wait for a port; more are dropped, as a switch does.
	maxQueue = 4096
)

// Link is how frames go from one port of a switch to another, in that direction.
type Link struct {
	Cut   bool          // none arrives
	Delay time.Duration // how much later a frame arrives
	Drop  float64       // share of frames that are lost, 0 to 1
}

// Switch is an Ethernet switch in this process. It learns where addresses are, and can hurt the link
// between any two ports. It joins machines without any privilege: the emulator carries the frames of a
// network card over a unix socket ("-netdev stream"), each behind its length in four bytes, big endian.
//
// Its methods may be called concurrently.
type Switch struct {
	dir string
	wg  sync.WaitGroup

	mu     sync.Mutex
	ports  map[string]*port
	seen   map[[6]byte]string // address to the port it was last seen behind
	links  map[[2]string]Link // from, to; those without an entry are whole
	closed bool
}

// port is where one machine is plugged in.
type port struct {
	name     string
	listener net.Listener
	queue    chan delayed
	done     chan struct{} // closed with the switch

	mu   sync.Mutex
	conn net.Conn // nil: nothing is plugged in
}

// delayed is a frame that is not to arrive before its time.
type delayed struct {
	at    time.Time
	frame []byte
}

// NewSwitch makes a switch whose sockets are in a temporary folder. The caller closes it.
func NewSwitch() (*Switch, error) {
	dir, err := os.MkdirTemp("", "millrace-net-") // paths of sockets must be shorter than 108 bytes
	if err != nil {
		return nil, fmt.Errorf("make switch: %w", err)
	}
	return &Switch{dir: dir, ports: make(map[string]*port), seen: make(map[[6]byte]string), links: make(map[[2]string]Link)}, nil
}

// Plug makes a port and returns the socket for Config.Network of the machine behind it. A machine that is
// started anew uses the same port.
func (s *Switch) Plug(name string) (socket string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", net.ErrClosed
	}
	if _, ok := s.ports[name]; ok {
		return "", fmt.Errorf("switch has a port %q already", name)
	}
	socket = filepath.Join(s.dir, fmt.Sprint(len(s.ports)))
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", fmt.Errorf("make port %q: %w", name, err)
	}
	p := &port{name: name, listener: l, queue: make(chan delayed, maxQueue), done: make(chan struct{})}
	s.ports[name] = p
	s.wg.Go(func() { s.accept(p) })
	s.wg.Go(p.send)
	return socket, nil
}

// SetLink hurts or heals the link between two ports, in both directions.
func (s *Switch) SetLink(a, b string, l Link) error {
	if l.Drop < 0 || l.Drop > 1 || l.Delay < 0 {
		return fmt.Errorf("link %s to %s: delay %v, drop %v: want no negative delay, and a share from 0 to 1", a, b, l.Delay, l.Drop)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range []string{a, b} {
		if s.ports[name] == nil {
			return fmt.Errorf("switch has no port %q", name)
		}
	}
	if a == b {
		return fmt.Errorf("port %q has no link to itself", a)
	}
	s.links[[2]string{a, b}], s.links[[2]string{b, a}] = l, l
	return nil
}

// Links returns the links that are not whole, by their two ports; each is listed in both directions.
func (s *Switch) Links() map[[2]string]Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	hurt := make(map[[2]string]Link)
	for ends, l := range s.links {
		if l != (Link{}) {
			hurt[ends] = l
		}
	}
	return hurt
}

// Close unplugs all machines.
func (s *Switch) Close() error {
	s.mu.Lock()
	var errs []error
	if !s.closed {
		s.closed = true
		for _, p := range s.ports {
			close(p.done)
			errs = append(errs, p.listener.Close())
			p.unplug(nil)
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// accept takes the machines that are plugged into a port, one after the other.
func (s *Switch) accept(p *port) {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		closed := s.closed
		if !closed {
			p.plug(conn)
		}
		s.mu.Unlock()
		if closed {
			conn.Close()
			return
		}
		s.receive(p, conn)
		p.unplug(conn)
	}
}

// receive forwards the frames of one machine until it is gone.
func (s *Switch) receive(p *port, conn net.Conn) {
	header := make([]byte, 4)
	for {
		if _, err := io.ReadFull(conn, header); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(header)
		if n < 14 || n > maxFrame {
			return // not a frame: nothing after it can be trusted
		}
		frame := make([]byte, 4+n)
		copy(frame, header)
		if _, err := io.ReadFull(conn, frame[4:]); err != nil {
			return
		}
		s.forward(p.name, frame)
	}
}

// forward puts a frame into the queues of the ports that it goes to. The frame is shared and not changed.
func (s *Switch) forward(from string, frame []byte) {
	to, source := [6]byte(frame[4:10]), [6]byte(frame[10:16])
	s.mu.Lock()
	defer s.mu.Unlock()
	const group = 1 // the bit of addresses that are of more than one card
	if source[0]&group == 0 {
		s.seen[source] = from
	}
	if at, ok := s.seen[to]; ok && to[0]&group == 0 {
		s.queueLocked(from, at, frame)
		return
	}
	for name := range s.ports {
		s.queueLocked(from, name, frame)
	}
}

// queueLocked puts a frame into the queue of a port, unless the link loses it.
func (s *Switch) queueLocked(from, to string, frame []byte) {
	l := s.links[[2]string{from, to}]
	if from == to || l.Cut || l.Drop > 0 && rand.Float64() < l.Drop {
		return
	}
	select {
	case s.ports[to].queue <- delayed{time.Now().Add(l.Delay), frame}:
	default: // full
	}
}

func (p *port) plug(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = conn
}

// unplug closes the connection, if it is still that one; nil is any.
func (p *port) unplug(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil && (conn == nil || p.conn == conn) {
		p.conn.Close()
		p.conn = nil
	}
}

// send writes the frames of a port's queue. Frames stay in their order, so one that is delayed delays those
// behind it that come from elsewhere.
func (p *port) send() {
	for {
		select {
		case <-p.done:
			return
		case d := <-p.queue:
			if wait := time.Until(d.at); wait > 0 {
				select {
				case <-p.done:
					return
				case <-time.After(wait):
				}
			}
			p.mu.Lock()
			conn := p.conn
			p.mu.Unlock()
			if conn == nil {
				continue // nothing is plugged in
			}
			if _, err := conn.Write(d.frame); err != nil {
				p.unplug(conn)
			}
		}
	}
}
