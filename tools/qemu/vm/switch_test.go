package vm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// card is a network card plugged into a switch, as the emulator has it.
type card struct {
	t       *testing.T
	conn    net.Conn
	r       *bufio.Reader
	address [6]byte
}

func plugCard(t *testing.T, socket string, address byte) *card {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &card{t, conn, bufio.NewReader(conn), [6]byte{2, 0, 0, 0, 0, address}}
}

var broadcast = [6]byte{255, 255, 255, 255, 255, 255}

func (c *card) send(to [6]byte, text string) {
	c.t.Helper()
	frame := append(append(append([]byte{}, to[:]...), c.address[:]...), "\x08\x00"+text...)
	if _, err := c.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		c.t.Fatal(err)
	}
}

const (
	soon  = time.Minute           // when a frame is there for sure, if it comes
	never = 50 * time.Millisecond // after which a frame is taken not to come
)

// read returns the next frame's text; ok is false when none has come whole in that time.
func (c *card) read(within time.Duration) (text string, ok bool) {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		c.t.Fatal(err)
	}
	header, err := c.r.Peek(4)
	if err == nil {
		var frame []byte
		if frame, err = c.r.Peek(4 + int(binary.BigEndian.Uint32(header))); err == nil {
			text = string(frame[4+14:])
			_, err = c.r.Discard(len(frame))
		}
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal(err)
	}
	return text, err == nil
}

// want reads the next frame; "" wants that none comes for a while.
func (c *card) want(text string) {
	c.t.Helper()
	within := soon
	if text == "" {
		within = never
	}
	if got, ok := c.read(within); ok != (text != "") || got != text {
		c.t.Fatalf("got frame %q (%t), want %q", got, ok, text)
	}
}

// newNet is a switch with three cards, whose addresses it knows.
func newNet(t *testing.T) (s *Switch, cards [3]*card) {
	t.Helper()
	s, err := NewSwitch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, name := range []string{"a", "b", "c"} {
		socket, err := s.Plug(name)
		if err != nil {
			t.Fatal(err)
		}
		cards[i] = plugCard(t, socket, byte(i+1))
	}
	// A card is plugged in a moment after it connects: send until it has been heard, and has heard.
	for i, c := range cards {
		other := cards[(i+1)%3]
		for heard := false; !heard; {
			c.send(broadcast, "hello")
			_, heard = other.read(20 * time.Millisecond)
		}
	}
	// Frames of one card stay in order: behind its last one there are no others.
	for _, c := range cards {
		c.send(broadcast, "last")
	}
	for _, c := range cards {
		for last := 0; last < 2; {
			text, ok := c.read(soon)
			if !ok {
				t.Fatal("a frame is missing")
			}
			if text == "last" {
				last++
			}
		}
	}
	return s, cards
}

func TestSwitch(t *testing.T) {
	s, cards := newNet(t)
	a, b, c := cards[0], cards[1], cards[2]
	a.send(broadcast, "all")
	b.want("all")
	c.want("all")
	a.want("")
	a.send(b.address, "to b")
	b.want("to b")
	c.want("")

	if err := s.SetLink("a", "b", Link{Cut: true}); err != nil {
		t.Fatal(err)
	}
	a.send(b.address, "lost")
	b.send(a.address, "lost")
	a.send(c.address, "c is reached")
	c.want("c is reached")
	a.want("")
	b.want("")
	if hurt := s.Links(); len(hurt) != 2 || !hurt[[2]string{"b", "a"}].Cut {
		t.Errorf("links %v", hurt)
	}

	if err := s.SetLink("a", "b", Link{Delay: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	a.send(b.address, "late")
	b.want("late")
	if took := time.Since(began); took < 100*time.Millisecond {
		t.Errorf("a frame delayed by 100 ms arrived after %v", took)
	}

	if err := s.SetLink("a", "b", Link{Drop: 1}); err != nil {
		t.Fatal(err)
	}
	a.send(b.address, "dropped")
	b.want("")
	if err := s.SetLink("a", "b", Link{}); err != nil {
		t.Fatal(err)
	}
	a.send(b.address, "healed")
	b.want("healed")
	if hurt := s.Links(); len(hurt) != 0 {
		t.Errorf("healed, but %v", hurt)
	}
}

// TestSwitchReplug cuts a machine's power and starts it anew: the port is the same.
func TestSwitchReplug(t *testing.T) {
	_, cards := newNet(t)
	a, b := cards[0], cards[1]
	socket := b.conn.RemoteAddr().String()
	b.conn.Close()
	again := plugCard(t, socket, 2)
	for heard := false; !heard; {
		a.send(broadcast, "x")
		_, heard = again.read(20 * time.Millisecond)
	}
}

func TestSwitchRefuses(t *testing.T) {
	s, cards := newNet(t)
	for _, tt := range []struct {
		a, b string
		l    Link
	}{{"a", "x", Link{}}, {"a", "a", Link{}}, {"a", "b", Link{Drop: 2}}, {"a", "b", Link{Delay: -1}}} {
		if err := s.SetLink(tt.a, tt.b, tt.l); err == nil {
			t.Errorf("link %+v was taken", tt)
		}
	}
	if _, err := s.Plug("a"); err == nil {
		t.Error("a second port a was made")
	}
	// What is no frame ends the connection, and nothing else.
	if _, err := cards[0].conn.Write(bytes.Repeat([]byte{0xff}, 8)); err != nil {
		t.Fatal(err)
	}
	if err := cards[0].conn.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := cards[0].conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		t.Errorf("still connected after a frame of 4 GiB: %v", err)
	}
	cards[1].send(cards[2].address, "others go on")
	cards[2].want("others go on")
}
