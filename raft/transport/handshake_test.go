package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"millrace/raft"
)

// party is one end of a handshake in a test.
type party struct {
	identity
	target  uint64 // whom the dialer calls
	lane    raft.Lane
	binding string
}

func dialer() *party {
	return &party{identity: identity{1, 11, testCluster, 1000, testSecret.key}, target: 2, lane: raft.LaneAppend}
}

func acceptor() *party {
	return &party{identity: identity{2, 22, testCluster, 2000, testSecret.key}}
}

func allKnown(uint64) bool     { return true }
func allAdmitted(*hello) error { return nil }

// shake runs a handshake over two ends of connections and returns what each end says.
func shake(d, a *party, dc, ac net.Conn, known func(uint64) bool, admit func(*hello) error) (atDialer, atAcceptor error) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer ac.Close()
		_, atAcceptor = a.respond(ac, []byte(a.binding), known, admit)
	})
	_, atDialer = d.initiate(dc, []byte(d.binding), d.target, d.lane, func() error { return nil })
	dc.Close()
	wg.Wait()
	return atDialer, atAcceptor
}

func TestHandshakeRefusals(t *testing.T) {
	tests := []struct {
		name     string
		change   func(d, a *party)
		known    func(uint64) bool
		admit    func(*hello) error
		dialer   error
		acceptor error
	}{
		{name: "agreement"},
		{name: "agreement in TLS", change: func(d, a *party) { d.binding, a.binding = "x", "x" }},
		{name: "another cluster", change: func(d, a *party) { a.cluster[15] = 1 }, dialer: ErrCluster, acceptor: ErrCluster},
		{name: "another secret", change: func(d, a *party) { a.key = secret("a secret of another cluster").key },
			dialer: ErrCredentials, acceptor: ErrCredentials},
		{name: "no credentials", change: func(d, a *party) { d.key = Public().key }, dialer: ErrCredentials, acceptor: ErrCredentials},
		{name: "another node", change: func(d, a *party) { a.node = 3 }, dialer: ErrNode, acceptor: ErrNode},
		{name: "itself", change: func(d, a *party) { a.node, d.target = 1, 1 }, dialer: ErrNode, acceptor: ErrNode},
		{name: "unknown node", known: func(node uint64) bool { return node != 1 }, dialer: ErrUnknownNode, acceptor: ErrUnknownNode},
		{name: "unknown lane", change: func(d, a *party) { d.lane = raft.Lanes }, dialer: ErrLane, acceptor: ErrLane},
		{name: "not admitted", admit: func(*hello) error { return ErrDuplicate }, dialer: ErrDuplicate, acceptor: ErrDuplicate},
		{name: "two processes", admit: func(*hello) error { return ErrTwoProcesses }, dialer: ErrTwoProcesses, acceptor: ErrTwoProcesses},
		{name: "another TLS channel", change: func(d, a *party) { d.binding, a.binding = "x", "y" },
			dialer: ErrCredentials, acceptor: ErrCredentials},
		{name: "TLS at one end", change: func(d, a *party) { d.binding = "x" }, dialer: ErrCredentials, acceptor: ErrCredentials},
	}
	for _, test := range tests {
		d, a := dialer(), acceptor()
		if test.change != nil {
			test.change(d, a)
		}
		if test.known == nil {
			test.known = allKnown
		}
		if test.admit == nil {
			test.admit = allAdmitted
		}
		dc, ac := net.Pipe()
		atDialer, atAcceptor := shake(d, a, dc, ac, test.known, test.admit)
		if !errors.Is(atDialer, test.dialer) || !errors.Is(atAcceptor, test.acceptor) {
			t.Errorf("%s:\ndialer   %v\nacceptor %v", test.name, atDialer, atAcceptor)
		}
	}
}

// TestHandshakeVersion meets a node that speaks another version only.
func TestHandshakeVersion(t *testing.T) {
	for _, versions := range [][2]byte{{9, 2}, {0, 0}} {
		later := acceptor().hello(raft.LaneAppend, 1, accepted)
		later.newest, later.oldest = versions[0], versions[1]

		dc, ac := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			readHello(ac)
			ac.Write(later.encode())
			if n, _ := ac.Read(make([]byte, 1)); n > 0 {
				t.Error("the dialer went on")
			}
		})
		d := dialer()
		if _, err := d.initiate(dc, nil, 2, raft.LaneAppend, func() error { return nil }); !errors.Is(err, ErrVersion) {
			t.Errorf("versions %v: dialer: %v", versions, err)
		}
		dc.Close()
		wg.Wait()

		dc, ac = net.Pipe()
		later.node, later.target = 1, 2
		wg.Go(func() {
			if _, err := acceptor().respond(ac, nil, allKnown, allAdmitted); !errors.Is(err, ErrVersion) {
				t.Errorf("versions %v: acceptor: %v", versions, err)
			}
			ac.Close()
		})
		dc.Write(later.encode())
		if _, h, err := readHello(dc); err != nil || !errors.Is(h.code.err(), ErrVersion) {
			t.Errorf("versions %v: the acceptor told %+v, %v", versions, h, err)
		}
		wg.Wait()
	}
}

// meddler passes on a handshake and changes byte at of the nth message, with a new checksum.
type meddler struct {
	n, at int
	seen  [4][]byte // as they were
}

func (m *meddler) run(d, a *party) (atDialer, atAcceptor error) {
	dc, fromDialer := net.Pipe()
	toAcceptor, ac := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer fromDialer.Close()
		defer toAcceptor.Close()
		for i, size := range []int{helloSize, helloSize, proofSize, proofSize} {
			from, to := fromDialer, toAcceptor
			if i%2 == 1 {
				from, to = to, from
			}
			b := make([]byte, size)
			if _, err := io.ReadFull(from, b); err != nil {
				return
			}
			m.seen[i] = bytes.Clone(b)
			if i == m.n && m.at >= 0 {
				b[m.at] ^= 1
				binary.LittleEndian.PutUint32(b[size-4:], checksum(b[:size-4]))
			}
			if _, err := to.Write(b); err != nil {
				return
			}
		}
	})
	atDialer, atAcceptor = shake(d, a, dc, ac, allKnown, allAdmitted)
	wg.Wait()
	return atDialer, atAcceptor
}

// TestHandshakeMeddled holds that what somebody in the middle changes is found before frames are taken.
func TestHandshakeMeddled(t *testing.T) {
	for n, size := range []int{helloSize, helloSize, proofSize, proofSize} {
		for at := range size - 4 {
			if n < 2 && at >= 8 && at < 10 {
				continue // the size: the rest would be waited for
			}
			m := meddler{n: n, at: at}
			atDialer, atAcceptor := m.run(dialer(), acceptor())
			reserved := n >= 2 && at >= 1 && at < 4
			switch {
			case reserved: // of the proof, not looked at
				if atDialer != nil || atAcceptor != nil {
					t.Errorf("message %d, byte %d: %v, %v", n, at, atDialer, atAcceptor)
				}
			case atDialer == nil, atAcceptor == nil && n < 3:
				t.Errorf("message %d, byte %d changed: dialer %v, acceptor %v", n, at, atDialer, atAcceptor)
			}
		}
	}
}

// TestHandshakeReplayed plays to each end what the other end said in an earlier handshake.
func TestHandshakeReplayed(t *testing.T) {
	m := meddler{at: -1}
	if atDialer, atAcceptor := m.run(dialer(), acceptor()); atDialer != nil || atAcceptor != nil {
		t.Fatal(atDialer, atAcceptor)
	}
	for _, b := range m.seen {
		if bytes.Contains(b, testSecret.key[:8]) || bytes.Contains(b, []byte("a secret")) {
			t.Error("the secret is on the wire")
		}
	}

	play := func(conn net.Conn, first []byte, answer int, second []byte) {
		defer conn.Close()
		if _, err := conn.Write(first); err != nil {
			t.Error(err)
		}
		io.CopyN(io.Discard, conn, int64(answer))
		conn.Write(second)
		io.Copy(io.Discard, conn)
	}
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { play(theirs, m.seen[0], helloSize, m.seen[2]) })
	if _, err := acceptor().respond(ours, nil, allKnown, allAdmitted); !errors.Is(err, ErrCredentials) {
		t.Errorf("acceptor: %v", err)
	}
	ours.Close()
	wg.Wait()

	ours, theirs = net.Pipe()
	wg.Go(func() {
		io.CopyN(io.Discard, theirs, helloSize)
		play(theirs, m.seen[1], proofSize, m.seen[3])
	})
	if _, err := dialer().initiate(ours, nil, 2, raft.LaneAppend, func() error { return nil }); !errors.Is(err, ErrCredentials) {
		t.Errorf("dialer: %v", err)
	}
	ours.Close()
	wg.Wait()
}

// TestHandshakeReflected answers a node with its own words.
func TestHandshakeReflected(t *testing.T) {
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, helloSize)
		io.ReadFull(theirs, b)
		// With the number of the node that was called in place of its own, as if that had said it.
		binary.LittleEndian.PutUint64(b[16:], 2)
		binary.LittleEndian.PutUint64(b[24:], 1)
		binary.LittleEndian.PutUint32(b[helloSize-4:], checksum(b[:helloSize-4]))
		theirs.Write(b)
		b = make([]byte, proofSize)
		io.ReadFull(theirs, b)
		theirs.Write(b)
	})
	if _, err := dialer().initiate(ours, nil, 2, raft.LaneAppend, func() error { return nil }); !errors.Is(err, ErrCredentials) {
		t.Errorf("dialer: %v", err)
	}
	wg.Wait()
}

// FuzzRespond lets an acceptor meet anything. It must not be persuaded, nor read more than a hello and a
// proof.
func FuzzRespond(f *testing.F) {
	d := dialer()
	h := d.hello(raft.LaneAppend, 2, accepted).encode()
	f.Add(h)
	f.Add(append(h, (&proof{}).encode()...))
	f.Add([]byte("CONNECT {}\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		rw := struct {
			io.Reader
			io.Writer
		}{r, io.Discard}
		if _, err := acceptor().respond(rw, nil, allKnown, allAdmitted); err == nil {
			t.Fatal("a stranger was taken for a node")
		}
		if read := len(b) - r.Len(); read > maxHello+proofSize {
			t.Fatalf("read %d bytes of a stranger", read)
		}
	})
}
