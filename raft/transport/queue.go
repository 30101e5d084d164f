package transport

import "sync"

// queue holds the frames of one lane to one node that wait to be written. It is full for frames, not
// for callers: push never waits.
//
// Invariants:
//  1. used is the sum of the sizes of the frames in the queue and in the writer's hands, each with
//     FrameOverhead, less what of them is written.
//  2. A queue that is not open holds no frames.
//  3. If refused is set and the queue is open, the writer will look at it: when it has written
//     something, or when the queue was just opened.
type queue struct {
	limit int

	mu       sync.Mutex
	open     bool
	waiting  bool // the writer waits for wake
	refused  bool // a frame was refused since the owner was told that there is room
	used     int  // bytes
	maxFrame int
	parts    [][]byte
	frames   []frame
	stats    queueStats

	wake chan struct{} // capacity 1
}

// frame is one frame in a list of parts.
type frame struct {
	parts int
	size  int // bytes
}

type queueStats struct {
	sentFrames, sentBytes, refused, dropped uint64
}

// keepParts is the capacity of lists that an empty queue keeps.
const keepParts = 4096

func (q *queue) push(parts [][]byte) bool {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.open {
		q.refused = true
		q.stats.refused++
		return false
	}
	if size > q.maxFrame { // never fits: to wait for room would be in vain
		q.stats.refused++
		return false
	}
	if q.used > 0 && q.used+size+FrameOverhead > q.limit {
		q.refused = true
		q.stats.refused++
		return false
	}
	n := len(q.parts)
	for _, p := range parts {
		if len(p) > 0 {
			q.parts = append(q.parts, p)
		}
	}
	q.frames = append(q.frames, frame{len(q.parts) - n, size})
	q.used += size + FrameOverhead
	if q.waiting {
		q.waiting = false
		select {
		case q.wake <- struct{}{}:
		default: // one that the writer has not seen yet
		}
	}
	return true
}

func (q *queue) room() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.open {
		return 0
	}
	return max(0, min(q.limit-q.used-FrameOverhead, q.maxFrame))
}

// start opens the queue for a connection that takes frames of maxFrame bytes. It reports whether frames
// were refused before.
func (q *queue) start(maxFrame int) (drained bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	drained = q.refused
	q.open, q.refused, q.maxFrame = true, false, maxFrame
	return drained
}

// stop closes the queue. What it holds, and frames that the writer took and has not numbered, are
// dropped. What has a number counts as sent, arrived or not: the other end notices if it did not.
func (q *queue) stop(taken, sent, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.open, q.waiting, q.used = false, false, 0
	q.stats.dropped += uint64(len(q.frames) + taken)
	q.stats.sentFrames += uint64(sent)
	q.stats.sentBytes += uint64(bytes)
	clear(q.parts)
	q.parts, q.frames = keep(q.parts), keep(q.frames)
	select { // a wake-up that the writer did not see
	case <-q.wake:
	default:
	}
}

// take exchanges the frames of the queue for the given lists, of which nothing is needed any more. It
// returns false if there are none; then wake gets a value when there are.
func (q *queue) take(parts *[][]byte, frames *[]frame) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.frames) == 0 {
		q.waiting = true
		*parts, q.parts, *frames, q.frames = keep(*parts), keep(q.parts), keep(*frames), keep(q.frames)
		return false
	}
	*parts, q.parts = q.parts, (*parts)[:0]
	*frames, q.frames = q.frames, (*frames)[:0]
	return true
}

// wrote gives back the room of what was written. It reports whether frames were refused and half of
// the room is free.
func (q *queue) wrote(used, frames, bytes int) (drained bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used -= used
	q.stats.sentFrames += uint64(frames)
	q.stats.sentBytes += uint64(bytes)
	if drained = q.refused && q.used <= q.limit/2; drained {
		q.refused = false
	}
	return drained
}

// keep returns an empty list that keeps its memory unless that is much.
func keep[T any](list []T) []T {
	if cap(list) > keepParts {
		return nil
	}
	return list[:0]
}
