package wire

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func newRouteParser() *RouteParser {
	return &RouteParser{Parser: Parser{MaxControlLine: 256, MaxPayload: 1024}}
}

// describeRoute renders an operation with everything it holds.
func describeRoute(op *RouteOp) string {
	switch op.Kind {
	case OpRSub, OpRUnsub, OpLSub, OpLUnsub:
		return fmt.Sprintf("%d(%s,%s,%s,%s,%d)", op.Kind-OpRSub, op.Origin, op.Account, op.Subject, op.Queue, op.Weight)
	case OpRMsg:
		return fmt.Sprintf("msg(%s,%s,%s,%s,%q,%q,%q,%q,%s/%s=%d)", op.Origin, op.Account, op.Subject, op.Reply, op.Queues,
			op.Header, op.Data, op.Body, op.HdrText, op.SizText, op.Size)
	case OpAccount:
		return "account"
	}
	return describe(&op.Op)
}

// runRoute parses a stream that arrives in the given pieces.
func runRoute(p *RouteParser, pieces ...[]byte) (ops []string, rest int, err error) {
	var buf []byte
	for _, piece := range pieces {
		buf = append(buf, piece...)
		for {
			var op RouteOp
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
			ops = append(ops, describeRoute(&op))
			buf = buf[n:]
		}
	}
	return ops, len(buf), nil
}

const routeSession = "INFO {}\r\nCONNECT {\"name\":\"N\"}\r\nPING\r\nPONG\r\n+OK\r\n-ERR 'x'\r\nRS+ A foo\r\nRS+ A foo q 3\r\n" +
	"RS- A foo\r\nRS- A foo q\r\nLS+ hub A foo\r\nLS+ hub A foo q 0\r\nLS- hub A foo\r\nLS- hub A foo q\r\n" +
	"RMSG A foo 2\r\nhi\r\nRMSG A foo reply 0\r\n\r\nRMSG A foo + reply q1 q2 1\r\nx\r\nRMSG A foo | q1 1\r\ny\r\n" +
	"HMSG A foo 12 14\r\nNATS/1.0\r\n\r\nab\r\nHMSG A foo reply 12 12\r\nNATS/1.0\r\n\r\n\r\n" +
	"HMSG A foo + reply q1 12 13\r\nNATS/1.0\r\n\r\nz\r\nHMSG A foo | q1 q2 0 1\r\nz\r\nLMSG hub A foo reply 0 1\r\nw\r\n" +
	"rmsg\tA  foo\t 1\r\nv\r\nA+ X\r\nA- X\r\nRS+ A x\n"

var routeOps = []string{
	"8({})", `1({"name":"N"})`, "6", "7", "9", "10('x')",
	"0(,A,foo,,0)", "0(,A,foo,q,3)", "1(,A,foo,,0)", "1(,A,foo,q,0)",
	"2(hub,A,foo,,0)", "2(hub,A,foo,q,1)", "3(hub,A,foo,,0)", "3(hub,A,foo,q,0)",
	`msg(,A,foo,,[],"","hi","hi\r\n",/2=2)`, `msg(,A,foo,reply,[],"","","\r\n",/0=0)`,
	`msg(,A,foo,reply,["q1" "q2"],"","x","x\r\n",/1=1)`, `msg(,A,foo,,["q1"],"","y","y\r\n",/1=1)`,
	`msg(,A,foo,,[],"NATS/1.0\r\n\r\n","ab","NATS/1.0\r\n\r\nab\r\n",12/14=14)`,
	`msg(,A,foo,reply,[],"NATS/1.0\r\n\r\n","","NATS/1.0\r\n\r\n\r\n",12/12=12)`,
	`msg(,A,foo,reply,["q1"],"NATS/1.0\r\n\r\n","z","NATS/1.0\r\n\r\nz\r\n",12/13=13)`,
	`msg(,A,foo,,["q1" "q2"],"","z","z\r\n",/1=1)`,
	`msg(hub,A,foo,reply,[],"","w","w\r\n",/1=1)`, `msg(,A,foo,,[],"","v","v\r\n",/1=1)`,
	"account", "account", "0(,A,x,,0)",
}

func TestRouteParserParsesSession(t *testing.T) {
	check := func(name string, pieces ...[]byte) {
		t.Helper()
		got, rest, err := runRoute(newRouteParser(), pieces...)
		if err != nil || rest != 0 {
			t.Fatalf("%s: rest %d, error %v, operations %q", name, rest, err, got)
		}
		for i := range max(len(got), len(routeOps)) {
			if i >= len(got) || i >= len(routeOps) || got[i] != routeOps[i] {
				t.Fatalf("%s: operation %d:\n got %q\nwant %q", name, i, got[min(i, len(got)):], routeOps[min(i, len(routeOps)):])
			}
		}
	}
	check("whole", []byte(routeSession))
	var single [][]byte
	for i := range len(routeSession) {
		check(fmt.Sprint("split at ", i), []byte(routeSession[:i]), []byte(routeSession[i:]))
		single = append(single, []byte(routeSession[i:i+1]))
	}
	check("single bytes", single...)
}

func TestRouteParserErrors(t *testing.T) {
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		in   string
		want error
	}{
		{"XX", ErrUnknownOp}, {"RX+ A b\r\n", ErrUnknownOp}, {"RS* A b\r\n", ErrUnknownOp}, {"PUB a 1\r\n", ErrUnknownOp},
		{"SUB a 1\r\n", ErrUnknownOp}, {"AX", ErrUnknownOp}, {"LX", ErrUnknownOp}, {"RMSGA b 1\r\n", ErrUnknownOp},
		{"RS+ A\r\n", ErrBadRouteSub}, {"RS+ A b q\r\n", ErrBadRouteSub}, {"RS+ A b q 1 2\r\n", ErrBadRouteSub}, {"RS+  \r\n", ErrBadRouteSub},
		{"RS- A b q 1\r\n", ErrBadRouteSub}, {"LS+ \r\n", ErrBadRouteSub}, {"LS+ o A\r\n", ErrBadRouteSub}, {"LS- o A b q 1\r\n", ErrBadRouteSub},
		{"RMSG A 1\r\n", ErrBadRouteMsg}, {"RMSG A b x\r\n", ErrBadRouteMsg}, {"RMSG A b r q 1\r\n", ErrBadRouteMsg},
		{"HMSG A b 1\r\n", ErrBadRouteMsg}, {"HMSG A b 3 2\r\n", ErrBadRouteMsg}, {"HMSG A b x 2\r\n", ErrBadRouteMsg},
		{"LMSG o A b 1\r\n", ErrBadRouteMsg}, {"LMSG \r\n", ErrBadRouteMsg}, {"RMSG \r\n", ErrBadRouteMsg},
		{"RMSG A b -1\r\n", ErrBadRouteMsg}, {"RMSG A b 1025\r\n", ErrMaxPayload}, {"RMSG A b 1\r\nxy\r\n", ErrUnknownOp},
		{"RS+ A " + long, ErrMaxControlLine},
	} {
		ops, _, err := runRoute(newRouteParser(), []byte(c.in))
		if !errors.Is(err, c.want) || len(ops) > 0 {
			t.Errorf("%.40q: operations %q, error %v, want %v", c.in, ops, err, c.want)
		}
		var single [][]byte
		for i := range len(c.in) {
			single = append(single, []byte(c.in[i:i+1]))
		}
		if _, _, err := runRoute(newRouteParser(), single...); !errors.Is(err, c.want) {
			t.Errorf("%.40q byte by byte: error %v, want %v", c.in, err, c.want)
		}
	}
}

func TestRouteParserDoesNotAllocate(t *testing.T) {
	in := []byte("HMSG A bench.subject + _INBOX.reply q1 q2 12 14\r\nNATS/1.0\r\n\r\nab\r\n")
	p := newRouteParser()
	var op RouteOp
	if n := testing.AllocsPerRun(100, func() { p.Parse(in, &op) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func TestAppendRouteLines(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{string(AppendRouteSub(nil, "A", "foo", "", 1)), "RS+ A foo\r\n"},
		{string(AppendRouteSub(nil, "A", "foo", "q", 12)), "RS+ A foo q 12\r\n"},
		{string(AppendRouteUnsub(nil, "A", "foo", "")), "RS- A foo\r\n"},
		{string(AppendRouteUnsub(nil, "A", "foo", "q")), "RS- A foo q\r\n"},
		{string((&RouteMsg{Account: "A", Subject: "foo", Size: []byte("2")}).Append(nil)), "RMSG A foo 2\r\n"},
		{string((&RouteMsg{Account: "A", Subject: "foo", Reply: []byte("r"), Size: []byte("2")}).Append(nil)), "RMSG A foo r 2\r\n"},
		{string((&RouteMsg{Account: "A", Subject: "in", Reply: []byte("r"), As: []byte("foo"), Size: []byte("2")}).Append(nil)), "RMSG A in r@foo 2\r\n"},
		{string((&RouteMsg{Account: "A", Subject: "foo", Queues: []string{"q", "p"}, Size: []byte("2")}).Append(nil)), "RMSG A foo | q p 2\r\n"},
		{string((&RouteMsg{Account: "A", Subject: "foo", Reply: []byte("r"), Queues: []string{"q"}, Hdr: []byte("12"), Size: []byte("14")}).Append(nil)),
			"HMSG A foo + r q 12 14\r\n"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParseInfoReadsWhatIsAppended(t *testing.T) {
	want := Info{ServerID: "N1", ServerName: "a", Port: 6222, Cluster: "C", ConnectURLs: []string{"h:1"}, IP: "nats-route://h:2/", GossipMode: 2}
	doc := strings.TrimSuffix(strings.TrimPrefix(string(AppendInfo(nil, &want)), "INFO "), "\r\n")
	if got, err := ParseInfo([]byte(doc)); err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if _, err := ParseInfo([]byte("{")); err == nil {
		t.Error("no error for a cut document")
	}
}

// FuzzRouteParser checks that the parser never fails on its own account, that the pieces in which a
// stream arrives do not matter, and that what is appended for a message is parsed as that message.
func FuzzRouteParser(f *testing.F) {
	f.Add([]byte(routeSession), uint(7))
	for _, s := range []string{"RMSG A b + r 1\r\nx\r\n", "RMSG A b | 1\r\nx\r\n", "LS+ o\r\n", "HMSG A b r@s 0 0\r\n\r\n", "RS+ \t\r\n"} {
		f.Add([]byte(s), uint(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, split uint) {
		want, wantRest, wantErr := runRoute(newRouteParser(), in)
		at := int(split % uint(len(in)+1))
		got, rest, err := runRoute(newRouteParser(), in[:at], in[at:])
		if err != wantErr || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("whole: %q %v\nsplit at %d: %q %v", want, wantErr, at, got, err)
		}
		if err == nil && rest != wantRest {
			t.Fatalf("rest %d, split %d", wantRest, rest)
		}
		var op RouteOp
		if n, err := newRouteParser().Parse(in, &op); n == 0 || err != nil || op.Kind != OpRMsg || op.Origin != nil {
			return
		}
		m := RouteMsg{Account: string(op.Account), Subject: string(op.Subject), Reply: op.Reply, Hdr: op.HdrText, Size: op.SizText}
		for _, q := range op.Queues {
			m.Queues = append(m.Queues, string(q))
		}
		first := describeRoute(&op)
		var again RouteOp
		if _, err := newRouteParser().Parse(append(m.Append(nil), op.Body...), &again); err != nil || describeRoute(&again) != first {
			t.Fatalf("%s appended and parsed: %s, %v", first, describeRoute(&again), err)
		}
	})
}

func BenchmarkRouteParserMsg(b *testing.B) {
	in := []byte("RMSG $G bench.subject 128\r\n" + strings.Repeat("x", 128) + "\r\n")
	p := &RouteParser{Parser: Parser{MaxControlLine: 4096, MaxPayload: 1 << 20}}
	var op RouteOp
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		if n, err := p.Parse(in, &op); n != len(in) || err != nil {
			b.Fatal(n, err)
		}
	}
}
