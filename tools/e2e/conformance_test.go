package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/tools/cluster"
)

// scenario is a sequence of calls whose answers two servers are compared by. It has an account to
// itself on either server.
type scenario struct {
	name string
	run  func(x *session)
}

// scenarios returns all that TestConformance plays.
func scenarios() []scenario {
	return slices.Concat(streamScenarios(), publishScenarios(), retentionScenarios(), getScenarios(),
		consumerScenarios(), ackScenarios(), pullScenarios(), pushScenarios(), storeScenarios(), clientScenarios())
}

// difference is a line of a recording that the two servers deliberately do not have in common.
type difference struct {
	scenario string // name
	line     string // regular expression of the line on either server
	reason   string
}

// known are the differences that stay.
func known() []difference {
	const floor = "the ack floor passes messages that reached max_deliver; nats-server's stays until the next ack"
	floorLine := `^ack_floor\.(consumer|stream)_seq = `
	return []difference{
		{"stream/refused", `^\w+(\.[\w.]+)? = `, "features of later versions are refused by name, not accepted and ignored"},
		{"stream/purge", `^(error\..*|success) = `, "an invalid filter is refused, not taken for one without matches"},
		{"publish/too-large", `^(error\..*|seq) = `,
			"a message larger than max_bytes is refused; nats-server empties the stream for it and keeps nothing"},
		{"get/direct-batch", `^Nats-Num-Pending: `, "with no_hdr nats-server does not count down what is left"},
		{"get/direct-multi-beyond", `.`, "up_to_seq beyond the end is the end, not nothing"},
		{"consumer/update-filter", `.`,
			"a message that no filter has matched so far is delivered when one does; nats-server may have scanned past it"},
		{"consumer/deliver-policies", `^(delivered|ack_floor)\.stream_seq = `,
			"a start at the last messages puts the position where it ended, not where the last delivery was"},
		{"ack/max-deliver", floorLine, floor},
		{"ack/max-deliver-nak", floorLine, floor},
		{"ack/backoff", floorLine, floor},
		{"push/redelivery", floorLine, floor},
		{"retention/workqueue-maxdeliver", floorLine, floor},
		{"ack/foreign", `^(nats: timeout|<nil>)$`, "an unknown verb is not answered, since nothing was acknowledged"},
	}
}

// clusterKnown are the differences that stay between clusters, in which nats-server answers otherwise than alone. Ours
// does not.
func clusterKnown() []difference {
	all := known()
	for _, sc := range pushScenarios() {
		all = append(all, difference{sc.name, `^push_bound = true$`, "nats-server's leader may not have heard of a subscription that came before the request"})
	}
	return append(all,
		difference{"stream/create", `^did_create = true$`, "nats-server's cluster does not tell"},
		difference{"stream/list", `^(streams|total) = `, "a page beyond the end"},
		difference{"consumer/list", `^(total|limit) = `, "a page beyond the end"},
		difference{"consumer/list", `^(error\..*) = `, "nats-server's cluster lists the consumers of a stream that there is not"},
		difference{"account/info", `^(storage|memory) = `, "nats-server counts what was there a moment ago"},
		difference{"client/isolation", `^storage = `, "nats-server counts what was there a moment ago"},
		difference{"stream/memory", `^memory = `, "nats-server counts what was there a moment ago"},
		difference{"consumer/create", `^state\.consumer_count = `, "nats-server counts what was there a moment ago"},
		difference{"advisory/stream", `.`, "two servers tell, in any order"},
	)
}

// maxScenarios is how many scenarios run at a time: most of their time is waiting.
const maxScenarios = 16

// TestConformance plays every scenario against the server under test and against nats-server and
// compares what a client sees, line by line. MILLRACE_TEST_PEER names the nats-server; without it
// the version that the Makefile pins is built into the user's cache.
func TestConformance(t *testing.T) {
	all := scenarios()
	accounts := "accounts {\n" + accountsOf(all) + "}"
	ours := startServer(t, accounts)
	theirs := newServer(t, accounts)
	theirs.Program = peerProgram(t)
	theirs.start()
	used := conform(t, all, ours, theirs, known())
	if isMillraced() && !t.Failed() && len(used) > 0 {
		for _, d := range known() {
			if !used[d.scenario+d.line] {
				t.Errorf("known difference %q in %s is no difference any more", d.line, d.scenario)
			}
		}
	}
}

// accountsOf is an account for each scenario, as in a configuration file.
func accountsOf(all []scenario) string {
	var b strings.Builder
	for i := range all {
		fmt.Fprintf(&b, "  S%d { jetstream: enabled, users: [ { user: u%d, password: p } ] }\n", i, i)
	}
	return b.String()
}

// TestClusterConformance is TestConformance at routers of two clusters.
func TestClusterConformance(t *testing.T) {
	long(t)
	all := scenarios()
	var at []*server
	for _, program := range []string{serverPath, peerProgram(t)} {
		c := makeCluster(t, 3, func(o *cluster.Options) {
			o.Program, o.Routers = program, []string{program}
			o.Accounts = accountsOf(all)
			o.Lines = func(int) []string { return []string{"no_auth_user: u0"} } // of who looks whether it is formed
		})
		c.must(c.Start())
		c.formed()
		at = append(at, c.server(c.Routers()[0]))
	}
	conform(t, all, at[0], at[1], clusterKnown())
}

// conform plays scenarios at two servers and compares what clients see. It returns those of the known differences that
// were met.
func conform(t *testing.T, all []scenario, ours, theirs *server, known []difference) (used map[string]bool) {
	t.Helper()
	type result struct {
		done         chan struct{}
		ours, theirs *session
	}
	results := make([]result, len(all))
	limit := make(chan struct{}, maxScenarios)
	var wg sync.WaitGroup
	for i := range all {
		r := &results[i]
		r.done = make(chan struct{})
		play := func(s *server) *session {
			return newSession(t.Context(), s, nats.UserInfo(fmt.Sprintf("u%d", i), "p"), nats.MaxReconnects(0), nats.Timeout(startTimeout))
		}
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit; close(r.done) }()
			r.ours, r.theirs = play(ours), play(theirs)
			var both sync.WaitGroup
			for _, x := range []*session{r.ours, r.theirs} {
				both.Go(func() { x.play(all[i].run) })
			}
			both.Wait()
		})
	}
	t.Cleanup(wg.Wait)

	used = map[string]bool{}
	for i, sc := range all {
		t.Run(sc.name, func(t *testing.T) {
			r := &results[i]
			<-r.done
			for _, x := range []*session{r.ours, r.theirs} {
				if x.broken != "" {
					t.Errorf("%s: stopped after %d records: %s", filepath.Base(x.server.Program), len(x.records), x.broken)
				}
			}
			compare(t, sc.name, r.ours.records, r.theirs.records, known, used)
		})
	}
	return used
}

// compare reports the lines by which two recordings differ, unless all are known; used gets the known
// ones that were met.
func compare(t *testing.T, name string, ours, theirs []record, known []difference, used map[string]bool) {
	t.Helper()
	isKnown := func(line string) bool {
		for _, d := range known {
			if d.scenario == name && regexp.MustCompile(d.line).MatchString(line) {
				used[d.scenario+d.line] = true
				return true
			}
		}
		return false
	}
	var call string // that led to the messages
	for i := range max(len(ours), len(theirs)) {
		var a, b record
		if i < len(ours) {
			a = ours[i]
		}
		if i < len(theirs) {
			b = theirs[i]
		}
		if a.title != b.title && isKnown(a.title) {
			return // what follows can not be compared
		}
		if a.title != b.title {
			t.Errorf("record %d after %s\n  ours:   %s\n  theirs: %s", i, call, a, b)
			return
		}
		if !strings.HasPrefix(a.title, "message ") {
			call = a.title
		}
		var report bytes.Buffer
		for _, side := range []struct {
			mark        string
			mine, other record
		}{{"ours:   ", a, b}, {"theirs: ", b, a}} {
			for _, line := range side.mine.lines {
				if !slices.Contains(side.other.lines, line) && !isKnown(line) {
					fmt.Fprintf(&report, "\n  %s%s", side.mark, line)
				}
			}
		}
		if report.Len() > 0 {
			t.Errorf("record %d: %s (%s)%s", i, a.title, call, report.Bytes())
		}
	}
}

// peerProgram returns the nats-server to compare with.
func peerProgram(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("MILLRACE_TEST_PEER"); path != "" {
		return path
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	pin := regexp.MustCompile(`(?m)^NATS_SERVER\s*:=\s*(\S+@(\S+))$`).FindSubmatch(makefile)
	if pin == nil {
		t.Fatal("the Makefile pins no NATS_SERVER")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "millrace-test", "nats-server-"+string(pin[2]))
	path := filepath.Join(dir, "nats-server")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	started := time.Now()
	install := exec.Command("go", "install", string(pin[1]))
	install.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("build the peer (or set MILLRACE_TEST_PEER): %v\n%s", err, out)
	}
	t.Logf("built %s in %s", path, time.Since(started).Round(time.Second))
	return path
}
