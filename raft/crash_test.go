package raft_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"millrace/raft"
	"millrace/raft/rafttest"
)

// What a machine was given is there after a crash, in the same order, whatever the store had made
// durable by then: writes complete late, each group at its own pace, and some reach the disk
// without an answer.
func TestHostLosesNothingAppliedInCrashes(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashRun(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func crashRun(t *testing.T, rng *rand.Rand) {
	const groups, lives, steps = 12, 6, 400
	log := rafttest.NewLog()
	var applied [groups][]string  // by group: what earlier lives applied
	var proposed [groups][]string // by group: what was proposed in this life and earlier
	next := 0
	for range lives {
		h := openHost(t, raft.Config{Log: log, Workers: 1 + rng.IntN(3), MaxPendingBytes: 200,
			MaxApplyBytes: 50})
		var ms [groups]*recorder
		var gs [groups]*raft.Group
		for i := range groups {
			ms[i] = &recorder{}
			gs[i] = startGroup(t, h, raft.GroupID(i+1), ms[i])
		}
		for range steps {
			i := rng.IntN(groups)
			switch rng.IntN(8) {
			case 0, 1, 2:
				log.Sync(uint64(i+1), 1+rng.IntN(3))
			case 3:
				synctest.Wait()
			case 4:
				if rng.IntN(10) == 0 { // a restart of one group within the life
					gs[i].Stop()
					applied[i] = check(t, i, applied[i], ms[i].data(), proposed[i])
					ms[i] = &recorder{}
					gs[i] = startGroup(t, h, raft.GroupID(i+1), ms[i])
				}
			default:
				data := fmt.Sprintf("%d:%d", i+1, next)
				next++
				switch err := gs[i].Propose([]byte(data)); {
				case err == nil:
					proposed[i] = append(proposed[i], data)
				case !errors.Is(err, raft.ErrNotLeader) && !errors.Is(err, raft.ErrBusy):
					t.Fatalf("propose to group %d: %v", i+1, err)
				}
			}
		}
		// What was applied by now must be in what the crash leaves.
		var now [groups][]string
		for i := range groups {
			now[i] = ms[i].data()
		}
		after := log.Crash(func(_ uint64, pending int) int { return rng.IntN(pending + 1) })
		for i := range groups {
			applied[i] = check(t, i, applied[i], now[i], proposed[i])
		}
		h.Close()
		log = after
	}

	h := openHost(t, raft.Config{Log: log})
	for i := range groups {
		m := &recorder{}
		g := startGroup(t, h, raft.GroupID(i+1), m)
		settle(log, uint64(i+1))
		propose(t, g, "last")
		settle(log, uint64(i+1))
		check(t, i, applied[i], m.data(), append(proposed[i], "last"))
		if got := m.data(); got[len(got)-1] != "last" || !slices.IsSorted(m.indexes) {
			t.Fatalf("group %d ends with %q; indexes %v", i+1, got[len(got)-1], m.indexes)
		}
	}
	h.Close()
}

// check checks what a life applied against what earlier ones did, and returns the longer one.
func check(t *testing.T, i int, before, now, proposed []string) []string {
	t.Helper()
	n := min(len(before), len(now))
	if !slices.Equal(before[:n], now[:n]) {
		t.Fatalf("group %d applied %q, after a crash %q", i+1, before, now)
	}
	for _, d := range now {
		at := slices.Index(proposed, d)
		if at < 0 {
			t.Fatalf("group %d applied %q, which was not proposed, or out of order", i+1, d)
		}
		proposed = proposed[at+1:]
	}
	if len(now) > len(before) {
		return now
	}
	return before
}
