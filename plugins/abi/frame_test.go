package abi

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func sample() *Frame {
	return &Frame{
		Delivered: 2, StreamSeq: 17, ConsumerSeq: 9, TimeNS: 1_700_000_000_000_000_001, Flags: FlagAfterTrap,
		Subject: []byte("orders.new"), Header: []byte("NATS/1.0\r\nA: b\r\n\r\n"), Data: []byte("hello"),
	}
}

// TestFrameBytes holds the layout of plugins/ABI.md against golden bytes.
func TestFrameBytes(t *testing.T) {
	f := sample()
	b := make([]byte, FrameSize(len(f.Subject), len(f.Header), len(f.Data)))
	if n := PutFrame(b, f); n != 88 || n != len(b) {
		t.Fatalf("frame takes %d of %d bytes, want 88", n, len(b))
	}
	want := "58000000" + "02000000" + "1100000000000000" + "0900000000000000" + "01002a36fe9c9717" +
		"0a000000" + "12000000" + "05000000" + "01000000" +
		hex.EncodeToString([]byte("orders.newNATS/1.0\r\nA: b\r\n\r\nhello")) + "00000000000000"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("frame bytes\n got %s\nwant %s", got, want)
	}
}

func TestFrameRoundTrip(t *testing.T) {
	f := sample()
	size := FrameSize(len(f.Subject), len(f.Header), len(f.Data))
	b := make([]byte, 2*size)
	PutFrame(b, f)
	f.StreamSeq = 18
	PutFrame(b[size:], f)
	var got Frame
	rest, err := ParseFrame(b, &got)
	if err != nil || got.StreamSeq != 17 || string(got.Subject) != "orders.new" || string(got.Data) != "hello" {
		t.Fatalf("first frame: %+v, %v", got, err)
	}
	rest, err = ParseFrame(rest, &got)
	if err != nil || got.StreamSeq != 18 || len(rest) != 0 {
		t.Fatalf("second frame: %+v, %v, %d bytes left", got, err, len(rest))
	}
}

func FuzzParseFrame(f *testing.F) {
	s := sample()
	b := make([]byte, FrameSize(len(s.Subject), len(s.Header), len(s.Data)))
	PutFrame(b, s)
	f.Add(b)
	f.Add(b[:47])
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got Frame
		rest, err := ParseFrame(b, &got)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		again := make([]byte, FrameSize(len(got.Subject), len(got.Header), len(got.Data)))
		PutFrame(again, &got)
		if len(again)+len(rest) != len(b) || !bytes.Equal(again[:40+8], b[:48]) {
			t.Fatalf("frame %x reads back as %x", b, again)
		}
	})
}
