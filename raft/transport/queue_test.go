package transport

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func newQueue(limit, maxFrame int) *queue {
	q := &queue{limit: limit, wake: make(chan struct{}, 1)}
	q.start(maxFrame)
	return q
}

// check returns an error if an invariant does not hold, for a writer that has taken nothing.
func (q *queue) check() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	used, parts := 0, 0
	for _, f := range q.frames {
		size := 0
		for _, p := range q.parts[parts : parts+f.parts] {
			size += len(p)
		}
		if size != f.size {
			return fmt.Errorf("frame of %d bytes, its parts have %d", f.size, size)
		}
		used, parts = used+size+FrameOverhead, parts+f.parts
	}
	switch {
	case parts != len(q.parts):
		return fmt.Errorf("%d parts, frames have %d", len(q.parts), parts)
	case used != q.used:
		return fmt.Errorf("used %d, frames have %d", q.used, used)
	case !q.open && len(q.frames) > 0:
		return fmt.Errorf("closed with %d frames", len(q.frames))
	case q.waiting && len(q.frames) > 0:
		return fmt.Errorf("the writer sleeps before %d frames", len(q.frames))
	}
	return nil
}

// TestQueueRandom compares a queue with what it promises, in a random order of calls.
func TestQueueRandom(t *testing.T) {
	const limit, maxFrame = 1000, 1500
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		q := newQueue(limit, maxFrame)
		var parts [][]byte
		var frames []frame
		var queued []int
		waiting := false
		for range 200 {
			switch r.IntN(10) {
			default:
				size := r.IntN(r.IntN(1600) + 1)
				room := q.room()
				took := q.push([][]byte{make([]byte, size/2), make([]byte, size-size/2)})
				want := size <= maxFrame && (len(queued) == 0 || size <= room)
				if took != want && size > 0 {
					t.Fatalf("seed %d: frame of %d bytes in room %d: %v", seed, size, room, took)
				}
				if took {
					queued = append(queued, size)
				}
				if took && waiting {
					select {
					case <-q.wake:
						waiting = false
					default:
						t.Fatalf("seed %d: the writer was not woken", seed)
					}
				}
			case 0, 1:
				ok := q.take(&parts, &frames)
				if ok != (len(queued) > 0) {
					t.Fatalf("seed %d: take: %v with %d frames", seed, ok, len(queued))
				}
				if waiting = !ok; !ok {
					continue
				}
				refused, used := q.refused, 0
				for i, f := range frames {
					if f.size != queued[i] {
						t.Fatalf("seed %d: frame %d of %d bytes, not %d", seed, i, f.size, queued[i])
					}
					used += f.size + FrameOverhead
				}
				queued = nil
				if drained := q.wrote(used, len(frames), used); drained != refused || q.refused {
					t.Fatalf("seed %d: drained %v, refused %v", seed, drained, refused)
				}
			case 2:
				if r.IntN(5) > 0 {
					continue
				}
				q.stop(0, 0, 0)
				if q.push([][]byte{{1}}) || q.room() != 0 || q.check() != nil {
					t.Fatalf("seed %d: a closed queue is open", seed)
				}
				if !q.start(maxFrame) {
					t.Fatalf("seed %d: no word of the refused frame", seed)
				}
				queued, waiting = nil, false
			}
			if err := q.check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// TestQueueOneFrameAlways holds that a frame that is larger than the queue gets through.
func TestQueueOneFrameAlways(t *testing.T) {
	q := newQueue(100, 5000)
	large := [][]byte{make([]byte, 5000)}
	if !q.push(large) || q.push(large) || q.push([][]byte{{1}}) || q.room() != 0 {
		t.Error("not exactly one frame was taken")
	}
	var parts [][]byte
	var frames []frame
	if !q.take(&parts, &frames) || q.wrote(5000, 0, 5000) != false || !q.wrote(FrameOverhead, 1, 0) || !q.push(large) {
		t.Error("no room after the frame was written")
	}
}

func TestQueueForgetsBigLists(t *testing.T) {
	q := newQueue(1<<30, 10)
	var parts [][]byte
	var frames []frame
	for range 3 {
		for range 3 * keepParts {
			q.push([][]byte{{1}, {2}})
		}
		if !q.take(&parts, &frames) || len(frames) != 3*keepParts {
			t.Fatal("frames are missing")
		}
	}
	if q.take(&parts, &frames) || cap(q.parts)+cap(q.frames)+cap(parts)+cap(frames) > 4*keepParts {
		t.Errorf("an empty queue keeps lists of %d, %d, %d, %d", cap(q.parts), cap(q.frames), cap(parts), cap(frames))
	}
}

func TestBackoffDelay(t *testing.T) {
	b := backoff{min: 100 * time.Millisecond, max: 5 * time.Second}
	var got []string
	for b.tries = range 12 {
		got = append(got, fmt.Sprintf("%v-%v", b.delay(1, 0), b.delay(1, 0.999999).Round(time.Millisecond)))
	}
	want := "0s-20ms 50ms-100ms 100ms-200ms 200ms-400ms 400ms-800ms 800ms-1.6s 1.6s-3.2s " +
		"2.5s-5s 2.5s-5s 2.5s-5s 2.5s-5s 2.5s-5s"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("delays %s\nwant   %s", s, want)
	}
	var rounds []time.Duration
	for b.tries = range 6 { // each round asks all addresses
		rounds = append(rounds, b.delay(3, 0))
	}
	if !slices.Equal(rounds, []time.Duration{0, 0, 0, 50 * time.Millisecond, 0, 0}) {
		t.Errorf("delays with three addresses: %v", rounds)
	}
	for _, tries := range []int{40, 64, 65, 1 << 20} {
		if b.tries = tries; b.delay(1, 0) != 2500*time.Millisecond {
			t.Errorf("delay after %d attempts: %v", tries, b.delay(1, 0))
		}
	}
}

func TestLimiterPasses(t *testing.T) {
	l := newLimiter(nil, time.Minute)
	now := time.Unix(1000, 0)
	for i := range 10 {
		if _, ok := l.pass("a", now); ok != (i == 0) {
			t.Errorf("line %d: %v", i, ok)
		}
	}
	if n, ok := l.pass("a", now.Add(time.Minute)); !ok || n != 9 {
		t.Errorf("after a minute: %v, %d withheld", ok, n)
	}
	passed := 0
	for i := range 1000 {
		if _, ok := l.pass(fmt.Sprint("stranger ", i), now.Add(time.Minute)); ok {
			passed++
		}
	}
	if passed != limiterKeys || len(l.keys) != limiterKeys+1 {
		t.Errorf("%d lines of strangers, %d keys", passed, len(l.keys))
	}
	if _, ok := l.pass("b", now.Add(2*time.Minute)); !ok || len(l.keys) != 1 {
		t.Errorf("after two minutes: %v, %d keys", ok, len(l.keys))
	}
}
