package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
)

// The heap may grow by the slack before it is collected, and the slack grows with the machine, up to a bound.
func TestHeapSlack(t *testing.T) {
	defer func() { heapSlack = nil }()
	for _, of := range []struct{ memory, want uint64 }{{0, 0}, {256 << 20, 8 << 20}, {4 << 30, 128 << 20}, {64 << 30, 128 << 20}} {
		reserveHeapSlack(of.memory)
		runtime.GC()
		goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
		metrics.Read(goal)
		if got := goal[0].Value.Uint64(); uint64(len(heapSlack)) != of.want || got < 2*of.want || got > 2*of.want+32<<20 {
			t.Errorf("memory of %d MiB: slack %d MiB, want %d, and the heap may be %d MiB", of.memory>>20, len(heapSlack)>>20, of.want>>20, got>>20)
		}
	}
	runtime.KeepAlive(heapSlack)
}
