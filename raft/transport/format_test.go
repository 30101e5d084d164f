package transport

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/raft"
)

func testHello() *hello {
	h := &hello{
		newest: 1, oldest: 1, lane: raft.LaneBulk, code: refusedLane, node: 0x1112131415161718, target: 2, incarnation: 3,
		cluster: testCluster, maxFrame: 16 << 20,
	}
	for i := range h.nonce {
		h.nonce[i] = byte(i)
	}
	return h
}

// TestFormatBytes holds the byte tables of the package comment.
func TestFormatBytes(t *testing.T) {
	tests := []struct {
		name, want string
		got        []byte
	}{
		{"hello", "a94d52524146540a 6000 01 01 02 05 0000 1817161514131211 0200000000000000 0300000000000000" +
			"636c7573746572000000000000000000 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 00000001 1ed2ecf7",
			testHello().encode()},
		{"proof", "06 000000 0102000000000000000000000000000000000000000000000000000000000000 8bae659e",
			(&proof{refusedCredentials, [32]byte{1, 2}}).encode()},
		{"data", "03020100 01 02 0000 0807060504030201 ddccbbaa e1abe255",
			(&header{0x010203, kindData, raft.LaneBulk, 0x0102030405060708, 0xaabbccdd}).append(nil)},
		{"ping", "00000000 02 01 0000 0900000000000000 00000000 73c5ac85", (&header{kind: kindPing, lane: raft.LaneAppend, seq: 9}).append(nil)},
	}
	for _, test := range tests {
		want, err := hex.DecodeString(strings.ReplaceAll(test.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(test.got, want) {
			t.Errorf("%s: %x, want %x", test.name, test.got, want)
		}
	}
}

// TestFormatFindsFlips holds that each flipped bit of each message is found.
func TestFormatFindsFlips(t *testing.T) {
	p := proof{refusedCredentials, [32]byte{1, 2}}
	h := header{5, kindData, raft.LaneBulk, 7, 8}
	tests := []struct {
		name   string
		bytes  []byte
		decode func([]byte) error
	}{
		{"hello", testHello().encode(), func(b []byte) error { _, _, err := readHello(bytes.NewReader(b)); return err }},
		{"proof", p.encode(), func(b []byte) error { _, err := readProof(bytes.NewReader(b)); return err }},
		{"header", h.append(nil), func(b []byte) error { _, err := decodeHeader(b); return err }},
	}
	for _, test := range tests {
		if err := test.decode(test.bytes); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		for bit := range 8 * len(test.bytes) {
			b := bytes.Clone(test.bytes)
			b[bit/8] ^= 1 << (bit % 8)
			err := test.decode(b)
			if !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: bit %d flipped: %v", test.name, bit, err)
			}
		}
	}
}

// TestFormatLaterHello holds that fields that a later version adds are skipped.
func TestFormatLaterHello(t *testing.T) {
	b := testHello().encode()
	b = append(b[:helloSize-4], "more"...)
	b[8] += 4
	b[10] = 7
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	all, h, err := readHello(io.MultiReader(bytes.NewReader(b), strings.NewReader("rest")))
	if err != nil || h.newest != 7 || h.maxFrame != 16<<20 || !bytes.Equal(all, b) {
		t.Errorf("%+v, %v", h, err)
	}
}

// streamConn is a connection that brings given bytes.
type streamConn struct {
	net.Conn // nil
	io.Reader
}

func (c *streamConn) Read(b []byte) (int, error)      { return c.Reader.Read(b) }
func (c *streamConn) SetReadDeadline(time.Time) error { return nil }
func (c *streamConn) Close() error                    { return nil }

// readStream reads a stream as the append lane does, and returns what was delivered.
func readStream(t testing.TB, b []byte) ([][]byte, error) {
	r := newRecorder(t)
	s := &shared{config: Config{MaxFrame: 1 << 16}.withDefaults(), receiver: r, identity: identity{maxFrame: 1 << 16}}
	l := newPeer(s, 7).lanes[raft.LaneAppend]
	c := &conn{nc: &streamConn{Reader: bytes.NewReader(b)}, peer: hello{incarnation: 1}, done: make(chan struct{})}
	err := l.read(c)
	return r.got(7, raft.LaneAppend), err
}

// stream returns the bytes of a connection: the opening ping and frames.
func stream(lane raft.Lane, seq uint64, frames ...string) []byte {
	b := (&header{kind: kindPing, lane: lane, seq: seq}).append(nil)
	for _, f := range frames {
		seq++
		b = (&header{uint32(len(f)), kindData, lane, seq, checksum([]byte(f))}).append(b)
		b = append(b, f...)
	}
	return b
}

func TestReadRefusesStreams(t *testing.T) {
	const lane = raft.LaneAppend
	one := stream(lane, 4, "one")
	large := (&header{size: 1<<16 + 1, kind: kindData, lane: lane, seq: 5}).append(stream(lane, 4))
	payload := bytes.Clone(one)
	payload[len(payload)-1] ^= 1
	tests := []struct {
		name   string
		stream []byte
		frames int
		want   error
	}{
		{"nothing", nil, 0, errHungUp},
		{"frames", stream(lane, 4, "one", "", "three"), 3, errHungUp},
		{"pings between", append(one, stream(lane, 5, "two")...), 2, errHungUp},
		{"half a header", one[:headerSize-1], 0, errHungUp},
		{"half a frame", one[:len(one)-1], 0, errHungUp},
		{"no ping at the begin", one[headerSize:], 0, ErrProtocol},
		{"another lane", stream(raft.LaneBulk, 4, "one"), 0, ErrProtocol},
		{"too large", large, 0, ErrProtocol},
		{"corrupt payload", payload, 0, ErrCorrupt},
		{"a frame twice", append(stream(lane, 4, "one"), one[headerSize:]...), 1, ErrCorrupt},
		{"a frame left out", append(stream(lane, 4), stream(lane, 5, "two")[headerSize:]...), 0, ErrCorrupt},
		{"a ping ahead", append(stream(lane, 4), stream(lane, 5)...), 0, ErrCorrupt},
		{"a ping behind", append(stream(lane, 4, "one"), stream(lane, 4)...), 1, ErrCorrupt},
	}
	for _, test := range tests {
		frames, err := readStream(t, test.stream)
		if len(frames) != test.frames || !errors.Is(err, test.want) {
			t.Errorf("%s: %d frames, %v; want %d, %v", test.name, len(frames), err, test.frames, test.want)
		}
	}
}

// FuzzRead reads any stream. Checksums are made to fit, or nothing behind them would be reached.
func FuzzRead(f *testing.F) {
	f.Add(stream(raft.LaneAppend, 4, "one", "", "three"))
	f.Add(append(stream(raft.LaneAppend, 4), stream(raft.LaneAppend, 5)...))
	f.Add(stream(raft.LaneBulk, 0, "x"))
	f.Add((&header{size: 1 << 30, kind: kindData, lane: raft.LaneAppend, seq: 5}).append(stream(raft.LaneAppend, 4)))
	f.Add([]byte(Magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		for at := 0; at+headerSize <= len(b); {
			size := int(binary.LittleEndian.Uint32(b[at:]))
			if size <= len(b)-at-headerSize {
				binary.LittleEndian.PutUint32(b[at+16:], checksum(b[at+headerSize:][:size]))
			}
			binary.LittleEndian.PutUint32(b[at+20:], checksum(b[at:at+20]))
			if size > len(b) {
				break
			}
			at += headerSize + size
		}
		frames, err := readStream(t, b)
		if err == nil {
			t.Fatal("a stream that ends was read without an error")
		}
		for _, frame := range frames {
			i := bytes.Index(b, frame)
			if i < 0 {
				t.Fatalf("delivered %x, which is not in the stream", frame)
			}
			b = b[i+len(frame):]
		}
	})
}

// FuzzHello decodes any bytes; what decodes encodes to the same.
func FuzzHello(f *testing.F) {
	f.Add(testHello().encode())
	f.Add([]byte(Magic + "\x00\x02"))
	f.Add(bytes.Repeat([]byte{0}, maxHello))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 12 { // let it begin right and have the right checksum
			copy(b, Magic)
			if size := int(binary.LittleEndian.Uint16(b[8:])); size >= helloSize && size <= len(b) {
				binary.LittleEndian.PutUint32(b[size-4:], checksum(b[:size-4]))
			}
		}
		all, h, err := readHello(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(all) == helloSize && all[14] == 0 && all[15] == 0 && !bytes.Equal(h.encode(), all) {
			t.Fatalf("%x became %x", all, h.encode())
		}
	})
}
