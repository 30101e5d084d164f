package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag    = flag.Uint64("seed", 0, "TestSeed: the seed; with -v what happens is printed")
	seedsFlag   = flag.Int("seeds", 0, "TestMany: number of seeds")
	firstFlag   = flag.Uint64("first", 1, "TestMany: the first seed")
	everyFlag   = flag.Bool("every", false, "TestSeed: print every message and entry, too")
	shrinkFlag  = flag.Bool("shrink", false, "TestSeed: look for a smaller run that fails, too")
	withoutFlag = flag.String("without", "", "TestSeed: classes of faults that do not happen, separated by commas")
	idealFlag   = flag.Bool("ideal", false, "TestSeed, TestMany: logs in memory in place of the journal")
	faultsFlag  = flag.Duration("faults", 0, "TestSeed: virtual time with faults; 0: as drawn")
	mutantFlag  = flag.String("mutant", "", "TestSeed: the deliberate fault")
)

func isSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// TestSeed replays one seed.
func TestSeed(t *testing.T) {
	if !isSet("seed") {
		t.Skip("no -seed")
	}
	cfg := Config{Seed: *seedFlag, Mutant: Mutant(*mutantFlag), Ideal: *idealFlag, Every: *everyFlag, Faults: *faultsFlag}
	if *withoutFlag != "" {
		for _, name := range strings.Split(*withoutFlag, ",") {
			cfg.Without = append(cfg.Without, Fault(name))
		}
	}
	if testing.Verbose() {
		cfg.Trace = os.Stdout
	}
	r := Run(cfg)
	t.Logf("%+v, hash %x", r.Stats, r.Hash)
	if r.Failure == nil {
		return
	}
	t.Errorf("seed %d: %v\n%s", r.Seed, r.Failure, r.Failure.Stack)
	if *shrinkFlag {
		small, failure := Shrink(cfg, r.Failure)
		t.Errorf("smaller: -without %s, %d nodes, %d groups, %d clients (0: as drawn): %v",
			join(small.Without), small.Nodes, small.Groups, small.Clients, failure)
	}
}

func join(faults []Fault) string {
	var names []string
	for _, f := range faults {
		names = append(names, string(f))
	}
	return strings.Join(names, ",")
}

// TestMany runs as many seeds as it is told to; see "make sim".
func TestMany(t *testing.T) {
	if *seedsFlag == 0 {
		t.Skip("no -seeds")
	}
	begin := time.Now()
	var sum Stats
	failed := 0
	for i := range uint64(*seedsFlag) {
		r := Run(Config{Seed: *firstFlag + i, Ideal: *idealFlag})
		sum.add(&r.Stats)
		if r.Failure != nil {
			failed++
			t.Errorf("seed %d: %.600v\nreplay: go test ./raft/rafttest/sim -run 'TestSeed$' -seed %d -v", r.Seed, r.Failure, r.Seed)
		}
		if n := i + 1; n%25 == 0 || n == uint64(*seedsFlag) {
			fmt.Printf("%d seeds, %d failed, %v of virtual time in %v: %+v\n", n, failed, sum.Virtual.Round(time.Second),
				time.Since(begin).Round(time.Second), sum)
		}
	}
}

// short is a run for the unit tests.
func short(seed uint64) Config { return Config{Seed: seed, Faults: 6 * time.Second} }

func TestSomeSeeds(t *testing.T) {
	for seed := range uint64(6) {
		if r := Run(short(seed)); r.Failure != nil {
			t.Errorf("seed %d: %v\n%s", seed, r.Failure, r.Failure.Stack)
		}
	}
}

// Each of these seeds has found a bug, or is a run in which it would have been found.
func TestNamedSeeds(t *testing.T) {
	for _, s := range named {
		t.Run(s.name, func(t *testing.T) {
			if r := Run(s.cfg); r.Failure != nil {
				t.Errorf("seed %d: %v\n%s", s.cfg.Seed, r.Failure, r.Failure.Stack)
			}
		})
	}
}

func TestEqualSeedsGiveEqualRuns(t *testing.T) {
	if !deterministic {
		t.Skip("etcd's raft 3.5 draws its time-outs from a source that cannot be seeded")
	}
	for seed := range uint64(3) {
		a, b := Run(short(seed)), Run(short(seed))
		if a.Hash != b.Hash || a.Stats != b.Stats {
			t.Errorf("seed %d: %x %+v, then %x %+v", seed, a.Hash, a.Stats, b.Hash, b.Stats)
		}
	}
}

// Leases hold at the limits of what they allow for; TestMutants shows that they do not beyond.
func TestLeasesAtTheirLimits(t *testing.T) {
	for seed := range uint64(6) {
		r := Run(Config{Seed: seed, Faults: 20 * time.Second, Likes: []Fault{FaultLease}})
		if r.Failure != nil {
			t.Errorf("seed %d: %v\n%s", seed, r.Failure, r.Failure.Stack)
		}
		if r.Stats.Reads < 300 || r.Stats.Leaders < 2 {
			t.Errorf("seed %d tests too little: %+v", seed, r.Stats)
		}
	}
}

// Damage of what was synced lately is not taken for a torn write; TestMutants shows what happens if it is.
func TestDamageAtTheEndOfTheLog(t *testing.T) {
	for seed := range uint64(6) {
		r := Run(Config{Seed: seed, Faults: 20 * time.Second, Likes: []Fault{FaultFlip}, Late: true})
		if r.Failure != nil {
			t.Errorf("seed %d: %v\n%s", seed, r.Failure, r.Failure.Stack)
		}
		if r.Stats.Flips == 0 {
			t.Errorf("seed %d flips nothing", seed)
		}
	}
}

// What bits are flipped of is repaired from other nodes, by whoever meets it: replays, readers, the scrubber. The
// checkers see that it is the same then.
func TestDamageIsRepaired(t *testing.T) {
	var all Stats
	for seed := range uint64(4) {
		r := Run(Config{Seed: seed, Faults: 15 * time.Second, Likes: []Fault{FaultFlip}, Bits: 40, Late: seed%2 == 0})
		if r.Failure != nil {
			t.Errorf("seed %d: %v\n%s", seed, r.Failure, r.Failure.Stack)
		}
		all.add(&r.Stats)
	}
	t.Logf("%d bits flipped, %d times something damaged at a start, %d repairs", all.Flips, all.Damaged, all.Repaired)
	if all.Damaged == 0 || all.Repaired == 0 {
		t.Errorf("it tests too little: %+v", all)
	}
}

// raft.Transport's contract excludes it; the host does not need that.
func TestFramesThatComeTwiceDoNoHarm(t *testing.T) {
	for seed := range uint64(6) {
		cfg := short(seed)
		cfg.Twice = true
		if r := Run(cfg); r.Failure != nil {
			t.Errorf("seed %d: %v\n%s", seed, r.Failure, r.Failure.Stack)
		}
	}
}

func TestRunsLeaveNothingBehind(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	Run(short(1))
	before := heap()
	for range 3 {
		Run(short(1))
	}
	if after := heap(); after > before+8<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
}

// Every deliberate fault is found, within a bounded number of seeds.
func TestMutants(t *testing.T) {
	for _, m := range Mutants() {
		t.Run(string(m), func(t *testing.T) {
			for seed := range uint64(mutantSeeds) {
				r := Run(Config{Seed: seed, Mutant: m, Faults: mutantFaults})
				if r.Failure != nil {
					t.Logf("seed %d, checker %.300v", seed, r.Failure)
					return
				}
			}
			t.Errorf("not found in %d seeds", mutantSeeds)
		})
	}
}

// What the promise checker finds at once would be found by another one, too.
func TestCheckersBehindOthers(t *testing.T) {
	for _, c := range []struct {
		mutant      Mutant
		blind, want string
	}{
		{MutantDoneBeforeSync, CheckPromise, CheckQuorum},
		{MutantAppendBeforeSync, CheckPromise, CheckQuorum},
	} {
		t.Run(string(c.mutant), func(t *testing.T) {
			for seed := range uint64(mutantSeeds) {
				r := Run(Config{Seed: seed, Mutant: c.mutant, Blind: c.blind, Faults: mutantFaults})
				if r.Failure != nil && r.Failure.Check == c.want {
					t.Logf("seed %d, checker %.300v", seed, r.Failure)
					return
				}
			}
			t.Errorf("not found in %d seeds", mutantSeeds)
		})
	}
}

const (
	mutantSeeds  = 60
	mutantFaults = 20 * time.Second
)

func TestShrinkKeepsTheFailure(t *testing.T) {
	cfg := short(1)
	cfg.Mutant = MutantDoneBeforeSync
	r := Run(cfg)
	if r.Failure == nil {
		t.Fatal("the run does not fail")
	}
	small, failure := Shrink(cfg, r.Failure)
	if failure.Check != r.Failure.Check || len(small.Without) == 0 {
		t.Errorf("shrunk to %+v with %v, from %v", small, failure, r.Failure)
	}
}
