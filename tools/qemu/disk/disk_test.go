package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

const testSectors = 64

func openTest(t *testing.T, c Config) *Disk {
	t.Helper()
	if c.Path == "" {
		c.Path = filepath.Join(t.TempDir(), "disk.img")
	}
	c.Bytes = testSectors * SectorBytes
	d, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// sectors is n sectors of a byte.
func sectors(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n*SectorBytes) }

func put(t *testing.T, d *Disk, first, n int, b byte, durable bool) {
	t.Helper()
	if err := d.Write(sectors(n, b), int64(first)*SectorBytes, durable); err != nil {
		t.Fatal(err)
	}
}

// get returns the first byte of each sector, after looking that the sector is of one piece.
func get(t *testing.T, d *Disk) []byte {
	t.Helper()
	all := make([]byte, d.Bytes())
	if _, err := d.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	var out []byte
	for i := range testSectors {
		s := all[i*SectorBytes : (i+1)*SectorBytes]
		if !bytes.Equal(s, sectors(1, s[0])) {
			t.Fatalf("sector %d is torn within itself", i)
		}
		out = append(out, s[0])
	}
	return out
}

func cut(t *testing.T, d *Disk, seed uint64) Losses {
	t.Helper()
	l, err := d.Cut(seed)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// losesFlushed reports whether some cut takes what was flushed or written durably before it.
func losesFlushed(t *testing.T, c Config) bool {
	t.Helper()
	for seed := range uint64(20) {
		d := openTest(t, c)
		put(t, d, 0, 16, 1, false)
		put(t, d, 8, 16, 2, false)
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		put(t, d, 30, 4, 3, false) // must not come over the durable write of the same sectors
		put(t, d, 32, 4, 4, true)
		cut(t, d, seed)
		got := get(t, d)
		want := append(append(sectors(0, 0), bytes.Repeat([]byte{1}, 8)...), bytes.Repeat([]byte{2}, 16)...)
		if !bytes.Equal(got[:24], want) || !bytes.Equal(got[32:36], []byte{4, 4, 4, 4}) {
			return true
		}
	}
	return false
}

func TestFlushedSurvivesCuts(t *testing.T) {
	if losesFlushed(t, Config{}) {
		t.Error("a cut takes what was flushed")
	}
}

// The disk that ignores flushes is found by the same test.
func TestIgnoredFlushIsFound(t *testing.T) {
	if !losesFlushed(t, Config{IgnoreFlush: true}) {
		t.Error("a disk that ignores flushes loses nothing: cuts are harmless")
	}
}

// Cuts keep, drop, tear and reorder, each seed in its own way and always in the same.
func TestCutBySeed(t *testing.T) {
	var sum Losses
	reordered := false
	results := make(map[string]bool)
	const seeds = 50
	for seed := range uint64(seeds) {
		var before []byte
		for again := range 2 {
			d := openTest(t, Config{})
			for i := range 8 {
				put(t, d, i*8, 8, byte(i+1), false)
			}
			put(t, d, 0, 1, 99, false)
			if got := get(t, d); got[0] != 99 || got[1] != 1 || got[63] != 8 {
				t.Fatalf("before the cut: %v", got)
			}
			l := cut(t, d, seed)
			got := get(t, d)
			if l.Writes != 9 || l.Kept+l.Dropped+l.Torn != 9 || l.SectorsN != 65 {
				t.Fatalf("seed %d: %+v", seed, l)
			}
			for s, b := range got {
				if b != 0 && int(b) != s/8+1 && (s != 0 || b != 99) {
					t.Fatalf("seed %d: sector %d holds %d, which nobody wrote there", seed, s, b)
				}
			}
			reordered = reordered || got[15] == 0 && got[23] == 3 // the second is not there, the third is
			if again == 1 && !bytes.Equal(before, got) {
				t.Fatalf("seed %d: %v, then %v", seed, before, got)
			}
			before = got
			sum.Kept, sum.Dropped, sum.Torn = sum.Kept+l.Kept, sum.Dropped+l.Dropped, sum.Torn+l.Torn
		}
		results[string(before)] = true
	}
	if sum.Kept == 0 || sum.Dropped == 0 || sum.Torn == 0 || !reordered || len(results) < seeds/2 {
		t.Errorf("sum %+v, reordered %v, %d different results of %d seeds", sum, reordered, len(results), seeds)
	}
}

// A cut that waits for writes comes with the write, whose machine gets no answer.
func TestCutWhen(t *testing.T) {
	d := openTest(t, Config{})
	put(t, d, 0, 1, 1, false)
	type result struct {
		l   Losses
		err error
	}
	for _, tt := range []struct {
		name  string
		write bool // the second, which the cut waits for
	}{{"with the write", true}, {"without", false}} {
		ctx, cancel := context.WithCancel(t.Context())
		power := d.powerOn()
		got := make(chan result)
		go func() {
			l, err := d.CutWhen(ctx, 1, 2)
			got <- result{l, err}
		}()
		for armed := false; !armed; runtime.Gosched() {
			d.mu.Lock()
			armed = d.armed != nil
			d.mu.Unlock()
		}
		want := 1
		if tt.write {
			want = 2
			q := request{Type: cmdWrite, At: 512, Len: 512}
			if _, _, on, err := d.do(power, q, sectors(1, 2)); on || err != nil {
				t.Errorf("%s: answered %v (error %v)", tt.name, on, err)
			}
		} else {
			cancel()
		}
		if r := <-got; r.err != nil || r.l.Writes != want || d.powerOn() != power+1 {
			t.Errorf("%s: %+v, want %d writes", tt.name, r, want)
		}
		cancel()
		put(t, d, 0, 1, 1, false)
	}
	if l, err := d.CutWhen(t.Context(), 1, 1); err != nil || l.Writes != 1 {
		t.Errorf("at once: %+v (error %v)", l, err)
	}
}

// What leaves a full cache is durable, in order; the rest can be lost.
func TestCacheIsBounded(t *testing.T) {
	d := openTest(t, Config{})
	const writes = maxCached/(testSectors*SectorBytes) + 2
	for i := range writes {
		put(t, d, 0, testSectors, byte(i%250), false)
	}
	if d.cached > maxCached || d.cached < maxCached/2 {
		t.Errorf("%d bytes in the cache", d.cached)
	}
	if got := get(t, d); got[0] != byte((writes-1)%250) {
		t.Errorf("reads %d", got[0])
	}
	file, err := os.ReadFile(d.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	if file[0] != 1 { // 0 and 1 have left
		t.Errorf("the file holds %d", file[0])
	}
}

func TestOpenKeepsContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	d := openTest(t, Config{Path: path})
	put(t, d, 3, 1, 7, false)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, openTest(t, Config{Path: path})); got[3] != 7 {
		t.Errorf("holds %v", got)
	}
	if _, err := Open(Config{Path: filepath.Join(t.TempDir(), "x"), Bytes: 100}); err == nil {
		t.Error("a disk of 100 bytes was made")
	}
}

// client speaks the protocol as the emulator does.
type client struct {
	t    *testing.T
	conn net.Conn
}

func dial(t *testing.T, socket string) *client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := &client{t, conn}
	c.read(18)
	c.send(uint32(flagFixedNewstyle|flagNoZeroes), uint64(magicOption), uint32(8), uint32(0)) // structured replies: not here
	if b := c.read(20); binary.BigEndian.Uint32(b[12:]) != replyUnsupported {
		t.Fatalf("answer %x", b)
	}
	c.send(uint64(magicOption), uint32(optGo), uint32(6), uint32(0), uint16(0))
	b := c.read(20 + 12 + 20 + 14 + 20)
	if size := binary.BigEndian.Uint64(b[22:]); size != testSectors*SectorBytes {
		t.Fatalf("size %d", size)
	}
	if flags := binary.BigEndian.Uint16(b[30:]); flags != sendFlags|sendFlush|sendFUA {
		t.Fatalf("flags %x", flags)
	}
	return c
}

func (c *client) send(parts ...any) {
	c.t.Helper()
	if err := send(c.conn, parts...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

// ask sends a request and returns the error of the answer and n bytes behind it.
func (c *client) ask(flags, kind uint16, at uint64, length uint32, data []byte, n int) (uint32, []byte) {
	c.t.Helper()
	c.send(uint32(magicRequest), flags, kind, uint64(77), at, length, data)
	b := c.read(16 + n)
	if binary.BigEndian.Uint32(b) != magicAnswer || binary.BigEndian.Uint64(b[8:]) != 77 {
		c.t.Fatalf("answer %x", b)
	}
	return binary.BigEndian.Uint32(b[4:]), b[16:]
}

func TestServer(t *testing.T) {
	d := openTest(t, Config{})
	socket := filepath.Join(t.TempDir(), "s")
	s, err := Serve(d, socket)
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, socket)
	for _, tt := range []struct {
		name        string
		flags, kind uint16
		at          uint64
		data        []byte
		length      int
		code        uint32
	}{
		{"write", 0, cmdWrite, 0, sectors(1, 1), 0, 0},
		{"write past the cache", cmdFUA, cmdWrite, 512, sectors(1, 2), 0, 0},
		{"part of a sector", 0, cmdWrite, 100, sectors(1, 3), 0, errInvalid},
		{"behind the end", 0, cmdRead, testSectors * SectorBytes, nil, 512, errInvalid},
		{"far behind the end", 0, cmdRead, 1<<64 - 512, nil, 512, errInvalid},
		{"trim", 0, 4, 0, nil, 512, errInvalid},
	} {
		if code, _ := c.ask(tt.flags, tt.kind, tt.at, uint32(max(len(tt.data), tt.length)), tt.data, 0); code != tt.code {
			t.Errorf("%s: error %d, want %d", tt.name, code, tt.code)
		}
	}
	if code, b := c.ask(0, cmdRead, 0, 1024, nil, 1024); code != 0 || b[0] != 1 || b[512] != 2 {
		t.Errorf("read: error %d, %d and %d", code, b[0], b[512])
	}
	if n := len(d.cache); n != 1 {
		t.Errorf("%d writes in the cache, want the one that was not past it", n)
	}
	if code, _ := c.ask(0, cmdFlush, 0, 0, nil, 0); code != 0 || len(d.cache) != 0 || d.Flushes() != 1 {
		t.Errorf("flush: error %d, %d in the cache", code, len(d.cache))
	}

	// A machine without power writes no more; the next one finds the disk.
	cut(t, d, 1)
	c.send(uint32(magicRequest), uint16(0), uint16(cmdWrite), uint64(1), uint64(0), uint32(512), sectors(1, 9))
	next := dial(t, socket)
	if code, b := next.ask(0, cmdRead, 0, 512, nil, 512); code != 0 || b[0] != 1 {
		t.Errorf("after the cut: error %d, %d", code, b[0])
	}
	if err := c.conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c.conn); err != nil || len(b) > 0 {
		t.Errorf("a machine without power was answered %x (error %v)", b, err)
	}
	if got := get(t, d); got[0] != 1 {
		t.Errorf("a machine without power has written %d", got[0])
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
