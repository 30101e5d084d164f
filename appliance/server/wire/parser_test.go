package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func newParser() *Parser { return &Parser{MaxControlLine: 256, MaxPayload: 1024} }

// describe renders an operation with everything it holds.
func describe(op *Op) string {
	switch op.Kind {
	case OpConnect, OpInfo, OpErr:
		return fmt.Sprintf("%d(%s)", op.Kind, op.Arg)
	case OpPub, OpHPub:
		return fmt.Sprintf("%d(%s,%s,%q,%q,%q,%s/%s=%d)", op.Kind, op.Subject, op.Reply, op.Header, op.Data, op.Body,
			op.HdrText, op.SizText, op.Size)
	case OpSub:
		return fmt.Sprintf("%d(%s,%s,%s)", op.Kind, op.Subject, op.Queue, op.SID)
	case OpUnsub:
		return fmt.Sprintf("%d(%s,%d)", op.Kind, op.SID, op.Max)
	}
	return fmt.Sprint(op.Kind)
}

// run parses a stream that arrives in the given pieces.
func run(p *Parser, pieces ...[]byte) (ops []string, rest int, err error) {
	var buf []byte
	for _, piece := range pieces {
		buf = append(buf, piece...)
		for {
			var op Op
			n, err := p.Parse(buf, &op)
			if err != nil {
				return ops, len(buf), err
			}
			if n == 0 {
				if need := p.Need(); need != 0 && need <= len(buf) {
					return ops, len(buf), fmt.Errorf("has %d bytes, needs %d, but makes no progress", len(buf), need)
				}
				break
			}
			ops = append(ops, describe(&op))
			buf = buf[n:]
		}
	}
	return ops, len(buf), nil
}

const session = "CONNECT {\"verbose\":false}\r\nPING\r\nSUB foo 1\r\nsub foo.* queue 2\r\nPUB foo 5\r\nhello\r\n" +
	"PUB foo reply 0\r\n\r\nHPUB foo 12 15\r\nNATS/1.0\r\n\r\nabc\r\nhpub\tfoo  reply 12 12\r\nNATS/1.0\r\n\r\n\r\n" +
	"UNSUB 1\r\nUNSUB 2 10\r\nPONG\r\nINFO {}\r\n+OK\r\n-ERR 'x'\r\npub a.b 2\n\r\n\r\nPING\n"

func TestParserParsesSession(t *testing.T) {
	want := []string{
		`1({"verbose":false})`, "6", "4(foo,,1)", "4(foo.*,queue,2)", `2(foo,,"","hello","hello\r\n",/5=5)`,
		`2(foo,reply,"","","\r\n",/0=0)`,
		`3(foo,,"NATS/1.0\r\n\r\n","abc","NATS/1.0\r\n\r\nabc\r\n",12/15=15)`,
		`3(foo,reply,"NATS/1.0\r\n\r\n","","NATS/1.0\r\n\r\n\r\n",12/12=12)`,
		"5(1,0)", "5(2,10)", "7", "8({})", "9", "10('x')", `2(a.b,,"","\r\n","\r\n\r\n",/2=2)`, "6",
	}
	got, rest, err := run(newParser(), []byte(session))
	if err != nil || rest != 0 {
		t.Fatalf("rest %d, error %v", rest, err)
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("operation %d:\n got %q\nwant %q", i, got[min(i, len(got)):], want[min(i, len(want)):])
		}
	}
}

func TestParserSplitAtEveryByte(t *testing.T) {
	want, _, err := run(newParser(), []byte(session))
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, pieces ...[]byte) {
		t.Helper()
		got, rest, err := run(newParser(), pieces...)
		if err != nil || rest != 0 || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("%s: rest %d, error %v, operations %q", name, rest, err, got)
		}
	}
	var single [][]byte
	for i := range len(session) {
		check(fmt.Sprint("split at ", i), []byte(session[:i]), []byte(session[i:]))
		single = append(single, []byte(session[i:i+1]))
	}
	check("single bytes", single...)
}

func TestParserErrors(t *testing.T) {
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		in   string
		want error
	}{
		{"X", ErrUnknownOp}, {"\r\n", ErrUnknownOp}, {"PX", ErrUnknownOp}, {"PUX", ErrUnknownOp},
		{"PUBfoo 1\r\n", ErrUnknownOp}, {"SUB\r\n", ErrUnknownOp}, {"SUBX", ErrUnknownOp}, {"MSG a 1 1\r\n", ErrUnknownOp},
		{"PIG", ErrUnknownOp}, {"POX", ErrUnknownOp}, {"CONECT", ErrUnknownOp}, {"HPUX", ErrUnknownOp}, {"+NO", ErrUnknownOp},
		{"UNSUBX", ErrUnknownOp}, {"INFX", ErrUnknownOp}, {"-ERX", ErrUnknownOp}, {"-ERR\r\n", ErrUnknownOp},
		{"PUB\r\n", ErrUnknownOp}, {"PUB foo\r\n", ErrBadPub}, {"PUB foo bar baz 1\r\n", ErrBadPub}, {"PUB foo x\r\n", ErrBadPub},
		{"PUB foo -1\r\n", ErrBadPub}, {"PUB foo 1234567890\r\n", ErrBadPub}, {"PUB  \r\n", ErrBadPub},
		{"PUB foo 3\r\nabcd\r\n", ErrUnknownOp}, {"PUB foo 3\r\nabc\rX", ErrUnknownOp}, {"PUB foo 3\r\nabcX", ErrUnknownOp},
		{"HPUB foo 1\r\n", ErrBadPub}, {"HPUB foo 5 4\r\n", ErrBadPub}, {"HPUB foo x 4\r\n", ErrBadPub},
		{"HPUB foo a b 1 1\r\n", ErrBadPub}, {"HPUB foo 1 x\r\n", ErrBadPub},
		{"PUB foo 1025\r\n", ErrMaxPayload}, {"HPUB foo 12 1025\r\n", ErrMaxPayload},
		{"SUB foo\r\n", ErrBadSub}, {"SUB foo q 1 2\r\n", ErrBadSub}, {"UNSUB \r\n", ErrBadUnsub}, {"UNSUB 1 2 3\r\n", ErrBadUnsub},
		{"PUB " + long, ErrMaxControlLine}, {"PUB " + long + " 1\r\n", ErrMaxControlLine}, {"CONNECT " + long, ErrMaxControlLine},
		{"SUB " + long + "\r\n", ErrMaxControlLine}, {"PING" + long, ErrMaxControlLine},
	} {
		ops, _, err := run(newParser(), []byte(c.in))
		if !errors.Is(err, c.want) || len(ops) > 0 {
			t.Errorf("%.40q: operations %q, error %v, want %v", c.in, ops, err, c.want)
		}
		var single [][]byte
		for i := range len(c.in) {
			single = append(single, []byte(c.in[i:i+1]))
		}
		if _, _, err := run(newParser(), single...); !errors.Is(err, c.want) {
			t.Errorf("%.40q byte by byte: error %v, want %v", c.in, err, c.want)
		}
	}
	if _, _, err := run(&Parser{MaxControlLine: 256, MaxPayload: -1}, []byte("PUB foo 999999999\r\n")); err != nil {
		t.Errorf("payload without limit: %v", err)
	}
}

func TestParserNeed(t *testing.T) {
	p := newParser()
	var op Op
	in := []byte("PUB foo 100\r\nabc")
	if n, err := p.Parse(in, &op); n != 0 || err != nil || p.Need() != len("PUB foo 100\r\n")+102 {
		t.Errorf("n %d, need %d, error %v", n, p.Need(), err)
	}
	if n, err := p.Parse([]byte("PUB fo"), &op); n != 0 || err != nil || p.Need() != 0 {
		t.Errorf("n %d, need %d, error %v", n, p.Need(), err)
	}
}

// FuzzParser checks that the parser never fails on its own account and that the pieces in which a
// stream arrives do not matter.
func FuzzParser(f *testing.F) {
	f.Add([]byte(session), uint(7))
	for _, s := range []string{
		"PUB foo 3\r\nabcd\r\n", "HPUB a b 5 4\r\n", "PUB a 1025\r\n", "SUB > q 1\r\nUNSUB 1 999\r\n", "CONNECT{}\r\n",
		"PUB a\r b 1\r\nx\r\n", "PING x\r\nPONG\n", "HPUB a 0 1\r\nx\r\n", "\r\n", "-ERR 'x'\n+OK\n",
	} {
		f.Add([]byte(s), uint(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, split uint) {
		want, wantRest, wantErr := run(newParser(), in)
		at := int(split % uint(len(in)+1))
		got, rest, err := run(newParser(), in[:at], in[at:])
		if err != wantErr || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("whole: %q %v\nsplit at %d: %q %v", want, wantErr, at, got, err)
		}
		if err == nil && rest != wantRest {
			t.Fatalf("rest %d, split %d", wantRest, rest)
		}
	})
}

func BenchmarkParserPub(b *testing.B) {
	in := []byte("PUB bench.subject 128\r\n" + strings.Repeat("x", 128) + "\r\n")
	p := &Parser{MaxControlLine: 4096, MaxPayload: 1 << 20}
	var op Op
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, err := p.Parse(in, &op); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}

func ExampleParser() {
	p := Parser{MaxControlLine: 4096, MaxPayload: 1 << 20}
	buf := bytes.NewBufferString("PUB orders.new _INBOX.1 5\r\nhello\r\nPI").Bytes()
	var op Op
	n, err := p.Parse(buf, &op)
	fmt.Printf("%d %s %s %s %v\n", n, op.Subject, op.Reply, op.Data, err)
	n, err = p.Parse(buf[n:], &op)
	fmt.Println(n, err)
	// Output:
	// 34 orders.new _INBOX.1 hello <nil>
	// 0 <nil>
}

// FuzzPubArgs checks the fast way of splitting PUB arguments against the general one.
func FuzzPubArgs(f *testing.F) {
	for _, s := range []string{"foo 5", "foo bar 5", "foo 12 15", "foo bar 12 15", " foo 5", "foo  5", "foo\t5", "foo 5 ", "5", ""} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, arg []byte, header bool) {
		var fast, slow pubArgs
		if !fast.splitFast(arg, header) {
			return
		}
		ok := slow.split(arg, header)
		if got, want := fmt.Sprintf("%q", fast), fmt.Sprintf("%q", slow); !ok || got != want {
			t.Errorf("%q: fast %s, general %s %v", arg, got, want, ok)
		}
	})
}
