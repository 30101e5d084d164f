package consumer

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected output of testdata scripts")

// TestMachineScripts runs testdata/*.txt: lines of commands, "----", the expected output, a blank
// line. Times are seconds since the start of the script. Invariants are checked after every command,
// and every script is replayed at its end from the entries of its operations.
func TestMachineScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{m: New(), replica: New()}
	var got strings.Builder
	for block := range strings.SplitSeq(strings.TrimSuffix(string(data), "\n"), "\n\n") {
		input, want, _ := strings.Cut(block, "\n----\n")
		var out strings.Builder
		for line := range strings.SplitSeq(strings.TrimSuffix(input, "\n----"), "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			fmt.Fprint(&out, s.run(t, line))
			if err := s.m.check(); err != nil {
				t.Fatalf("%s: after %q: %v", file, line, err)
			}
		}
		if !*rewrite && strings.TrimSpace(out.String()) != strings.TrimSpace(want) {
			t.Errorf("%s:\n%s\ngot:\n%s\nwant:\n%s", file, input, out.String(), want)
		}
		fmt.Fprintf(&got, "%s\n----\n%s\n", strings.TrimSuffix(input, "\n----"), out.String())
	}
	if err := s.replica.Apply(s.batch.Take(), &Effects{}); err != nil {
		t.Fatalf("%s: replay: %v", file, err)
	}
	if string(s.replica.Snapshot()) != string(s.m.Snapshot()) {
		t.Errorf("%s: replay gives another state", file)
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimSuffix(got.String(), "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

type script struct {
	m, replica *Machine
	batch      Batch
	now        float64
}

func (s *script) time() time.Time { return time.Unix(1000, int64(s.now*1e9)) }

func (s *script) step(op Op) string {
	var e Effects
	if err := s.m.Step(s.time(), op, &e); err != nil {
		return err.Error() + "\n"
	}
	s.batch.Add(s.time(), op)
	if len(e.Settled) > 0 {
		return fmt.Sprintln("settled", e.Settled)
	}
	return ""
}

var verbs = map[string]Kind{"deliver": Deliver, "redeliver": Redeliver, "ack": Ack, "ackall": AckAll, "nak": Nak,
	"term": Term, "progress": Progress, "exceed": Exceed, "skip": Skip, "reset": Reset, "remove": Remove, "purge": Purge}

// run is long because it is the list of the commands.
func (s *script) run(t *testing.T, line string) string {
	words := strings.Fields(line)
	args := map[string]string{}
	var seqs []uint64
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			args[k] = v
			continue
		}
		n, err := strconv.ParseUint(w, 10, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		seqs = append(seqs, n)
	}
	duration := func(k string) time.Duration {
		if args[k] == "" {
			return 0
		}
		d, err := time.ParseDuration(args[k])
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return d
	}
	number := func(k string) int {
		n, _ := strconv.Atoi(args[k])
		return n
	}
	if kind, ok := verbs[words[0]]; ok {
		var out strings.Builder
		for _, seq := range seqs {
			out.WriteString(s.step(Op{Kind: kind, Seq: seq, N: uint64(number("n")), Delay: duration("delay")}))
		}
		return out.String()
	}
	switch words[0] {
	case "config":
		c := Config{AckPolicy: api.AckExplicit, AckWait: duration("wait"), MaxDeliver: number("maxdeliver"), MaxAckPending: number("maxpending")}
		switch args["ack"] {
		case "none":
			c.AckPolicy = api.AckNone
		case "all":
			c.AckPolicy = api.AckAll
		}
		if args["backoff"] != "" {
			for w := range strings.SplitSeq(args["backoff"], ",") {
				d, err := time.ParseDuration(w)
				if err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				c.BackOff = append(c.BackOff, d)
			}
		}
		return s.step(Op{Kind: SetConfig, Config: &c})
	case "at":
		at, err := strconv.ParseFloat(args["s"], 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		s.now = at
		var out strings.Builder
		for _, x := range s.m.Expire(s.time(), nil) {
			out.WriteString(fmt.Sprintf("exceeded %d after %d deliveries\n", x.Seq, x.Deliveries) + s.step(Op{Kind: Exceed, Seq: x.Seq}))
		}
		if s.m.NumDue() > 0 {
			d, _ := s.m.Due()
			out.WriteString(fmt.Sprintf("due %d, first %d\n", s.m.NumDue(), d.Seq))
		}
		if next, ok := s.m.NextDeadline(); ok {
			out.WriteString(fmt.Sprintf("next at %gs\n", next.Sub(time.Unix(1000, 0)).Seconds()))
		}
		return out.String()
	case "drain": // redelivers everything that is due
		out := "redelivered"
		for {
			d, ok := s.m.Due()
			if !ok {
				return out + "\n"
			}
			out += fmt.Sprintf(" %d", d.Seq) + s.step(Op{Kind: Redeliver, Seq: d.Seq})
		}
	case "state":
		d, f := s.m.Delivered(), s.m.Floor()
		out := fmt.Sprintf("delivered %d/%d floor %d/%d pending", d.Consumer, d.Stream, f.Consumer, f.Stream)
		s.m.Each(func(x Message) bool {
			out += fmt.Sprintf(" %d", x.Seq)
			if x.Deliveries > 1 {
				out += fmt.Sprintf("x%d", x.Deliveries)
			}
			return true
		})
		out += fmt.Sprintf(" redelivered %d", s.m.NumRedelivered())
		if s.m.Full() {
			out += " full"
		}
		if h := s.m.Horizon(); h > 0 {
			out += fmt.Sprintf(" horizon %d", h)
		}
		return out + "\n"
	case "needs":
		var out strings.Builder
		out.WriteString("needs")
		for _, seq := range seqs {
			out.WriteString(fmt.Sprintf(" %d=%t", seq, s.m.Needs(seq)))
		}
		return out.String() + "\n"
	}
	t.Fatalf("unknown command %q", line)
	return ""
}
