package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"millrace/tools/cluster"
	"millrace/tools/cluster/workload"
)

// TestClusterChaos does random harm to a cluster under load for as many minutes as MILLRACE_CHAOS says,
// in rounds of some ten seconds of harm, after each of which everything must be whole and is checked.
// MILLRACE_SEED repeats the harm of a run; what servers and clients do meanwhile is up to the machine.
func TestClusterChaos(t *testing.T) {
	long(t)
	minutes, err := strconv.ParseFloat(os.Getenv("MILLRACE_CHAOS"), 64)
	if err != nil {
		t.Fatalf("MILLRACE_CHAOS is a number of minutes: %v", err)
	}
	seed := rand.Uint64()
	if text := os.Getenv("MILLRACE_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("MILLRACE_SEED: %v", err)
		}
	}
	network := inNetwork(t, 3)
	t.Parallel()
	deadline := time.Now().Add(time.Duration(minutes * float64(time.Minute)))
	for round := 0; time.Now().Before(deadline); round++ {
		ok := t.Run(fmt.Sprint("round", round), func(t *testing.T) {
			x := &chaos{random: rand.New(rand.NewPCG(seed, uint64(round)))}
			t.Logf("MILLRACE_SEED=%d, round %d", seed, round)
			x.run(t, network)
		})
		if !ok {
			t.Fatalf("repeat it with MILLRACE_SEED=%d", seed)
		}
	}
}

// chaos is one round.
type chaos struct {
	c      *testCluster
	l      *load
	random *rand.Rand
	done   []string
}

// harm is one way to hurt a node, and how it ends.
type harm struct {
	name string
	do   func(x *chaos, n *cluster.Node) (heal func())
}

var harms = []harm{
	{"kill", func(x *chaos, n *cluster.Node) func() {
		x.c.must(n.Kill())
		return func() { x.c.must(n.Start()) }
	}},
	{"stop", func(x *chaos, n *cluster.Node) func() {
		x.c.must(n.Stop())
		return func() { x.c.must(n.Start()) }
	}},
	{"pause", func(x *chaos, n *cluster.Node) func() {
		x.c.must(n.Pause())
		return func() { x.c.must(n.Resume()) }
	}},
	{"kill all", func(x *chaos, _ *cluster.Node) func() {
		for _, n := range x.c.Nodes {
			x.c.must(n.Kill())
		}
		return func() { x.c.must(x.c.Start()) }
	}},
	{"split", func(x *chaos, n *cluster.Node) func() {
		x.c.Split([]*cluster.Node{n}, x.c.Others(n))
		return x.c.Heal
	}},
	{"split all", func(x *chaos, _ *cluster.Node) func() {
		x.c.Split(x.c.Nodes[:1], x.c.Nodes[1:2], x.c.Nodes[2:])
		return x.c.Heal
	}},
	{"mute", func(x *chaos, n *cluster.Node) func() {
		x.c.Cut([]*cluster.Node{n}, x.c.Others(n))
		return x.c.Heal
	}},
	{"deafen", func(x *chaos, n *cluster.Node) func() {
		x.c.Cut(x.c.Others(n), []*cluster.Node{n})
		return x.c.Heal
	}},
	{"slow line", func(x *chaos, n *cluster.Node) func() {
		line := cluster.Link{Delay: time.Duration(x.random.IntN(100)) * time.Millisecond, Rate: 100_000 + x.random.IntN(2_000_000)}
		x.c.Link([]*cluster.Node{n}, x.c.Others(n), line)
		x.c.Link(x.c.Others(n), []*cluster.Node{n}, line)
		return x.c.Heal
	}},
	{"step-down", func(x *chaos, _ *cluster.Node) func() {
		nc, _ := x.c.client(x.c.Nodes[0])
		defer nc.Close()
		_, err := workload.StepDown(x.c.context(healthLimit), nc, ordersStream, "")
		x.c.must(err)
		return func() {}
	}},
	// Not while another harm lasts: the disks of two of three at once are too many.
	{"wipe", func(x *chaos, n *cluster.Node) func() {
		x.c.healthy()
		x.c.must(n.Kill())
		x.c.must(n.Wipe())
		return func() {
			x.c.must(n.Start())
			x.c.rejoined(n)
		}
	}},
}

// run hurts a new cluster some times and checks it.
func (x *chaos) run(t *testing.T, network func(*cluster.Options)) {
	o := cluster.Options{}
	network(&o)
	o.Network.Heal()
	x.c = makeCluster(t, 3, network)
	x.c.must(x.c.Start())
	x.c.formed()
	x.l = x.c.startLoad(3)
	x.l.staleLeaders()
	x.l.progress("at the start")
	defer func() {
		if t.Failed() {
			t.Logf("harm done: %s", strings.Join(x.done, ", "))
		}
	}()
	for range 3 + x.random.IntN(4) {
		h, n := harms[x.random.IntN(len(harms))], x.c.Nodes[x.random.IntN(3)]
		lasts := time.Duration(x.random.IntN(4000)) * time.Millisecond
		x.done = append(x.done, fmt.Sprintf("%s %s for %s", h.name, n.Name, lasts))
		heal := h.do(x, n)
		x.wait(lasts)
		heal()
		// Some harm meets a cluster that has not got over the last one.
		if x.random.IntN(3) == 0 {
			x.l.progress("after: " + x.done[len(x.done)-1])
		}
	}
	x.l.progress("in the end")
	x.l.finish()
}

// wait lets a harm last.
func (x *chaos) wait(d time.Duration) {
	select {
	case <-x.c.t.Context().Done():
	case <-time.After(d):
	}
}
