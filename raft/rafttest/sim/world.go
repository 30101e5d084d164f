package sim

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"time"
)

// world is virtual time: a queue of events that one goroutine works off in order. Nothing in a run
// depends on anything but the seed.
//
//  1. Events of one moment run in the order in which they were scheduled.
//  2. Every decision is drawn from one of the world's sources, each derived from the seed and a name, so
//     that a fault class can be switched off without changing what the others do.
//  3. All that happens is hashed: equal seeds give equal hashes, or something is not deterministic.
type world struct {
	seed  uint64
	now   time.Duration // since the start of the run
	queue eventQueue
	order uint64
	steps uint64
	trace io.Writer // nil: none
	all   bool      // trace what happens often, too
	hash  hash.Hash64
	buf   []byte
}

// epoch is the wall clock time at which each run begins.
var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

type event struct {
	at    time.Duration
	order uint64
	run   func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = event{}
	*q = (*q)[:last]
	return e
}

func newWorld(seed uint64, trace io.Writer) *world {
	return &world{seed: seed, trace: trace, hash: fnv.New64a()}
}

// source returns the source of random decisions of that name.
func (w *world) source(name string) *rand.Rand {
	h := fnv.New64a()
	io.WriteString(h, name)
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// after schedules an event.
func (w *world) after(d time.Duration, run func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + max(d, 0), w.order, run})
}

// runUntil works off all events up to a moment, or until stop says so.
func (w *world) runUntil(end time.Duration, stop func() bool) {
	for len(w.queue) > 0 && w.queue[0].at <= end && !stop() {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.steps++
		e.run()
	}
	if !stop() {
		w.now = max(w.now, end)
	}
}

// note hashes something that happens often, and traces it.
func (w *world) note(what string, numbers ...uint64) {
	w.buf = append(w.buf[:0], what...)
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(w.now))
	for _, n := range numbers {
		w.buf = binary.LittleEndian.AppendUint64(w.buf, n)
	}
	w.hash.Write(w.buf)
	if w.trace != nil && w.all {
		w.printf("%s %d", what, numbers)
	}
}

// log hashes and traces something that happens rarely.
func (w *world) log(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	io.WriteString(w.hash, text)
	if w.trace != nil {
		w.printf("%s", text)
	}
}

func (w *world) printf(format string, args ...any) {
	fmt.Fprintf(w.trace, "%12.6f  %s\n", w.now.Seconds(), fmt.Sprintf(format, args...))
}

// between draws a duration of [lo, hi], evenly.
func between(rnd *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rnd.Int64N(int64(hi-lo)+1))
}

// chance is true with that probability.
func chance(rnd *rand.Rand, p float64) bool { return rnd.Float64() < p }

// seededReader gives the bytes of a random source, as crypto/rand.Reader does of the system's.
type seededReader struct{ rnd *rand.Rand }

func (r seededReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.rnd.Uint32())
	}
	return len(p), nil
}
