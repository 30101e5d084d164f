package jetstream

import "sync"

// lane is a queue of work with workers of its own. Work may wait for what runs in lanes further down this list, for the
// carrier and for raft, and never for its own lane or one above: however much is asked, what the answers wait for gets done.
type lane uint8

const (
	services lane = iota // what the node asks in the name of others, which makes requests
	requests             // of clients: they wait for the catalogue, and for leaders to answer
	chores               // of the engine: moves, hand-overs, consumers that find their place
	learning             // how far the catalogue is; see learners
	answers              // to other nodes, as a leader that may have to get ready
	indexes              // to other nodes, how far a leader is
	turns                // what follows from the log, from leadership and from interest; waits for nobody
	laneCount
)

// workers is how many pieces of work of a lane run at once. Those that wait cost a goroutine each.
var workers = [laneCount]int{services: 8, requests: 32, chores: 16, learning: 1, answers: 32, indexes: 8, turns: 8}

// lanes is all the work of an engine.
type lanes [laneCount]jobs

func (l *lanes) init() {
	for i := range l {
		l[i].init()
	}
}

// start starts the workers.
func (l *lanes) start(wg *sync.WaitGroup) {
	for i := range l {
		for range workers[i] {
			wg.Go(l[i].run)
		}
	}
}

func (l *lanes) close() {
	for i := range l {
		l[i].close()
	}
}

// work runs fn on a worker of a lane. It does not wait.
func (e *Engine) work(l lane, fn func()) { e.lanes[l].add(fn) }

// jobs is a queue of work for a fixed number of workers.
type jobs struct {
	mu     sync.Mutex
	ready  *sync.Cond
	queue  []func()
	closed bool
}

func (j *jobs) init() { j.ready = sync.NewCond(&j.mu) }

func (j *jobs) add(fn func()) {
	j.mu.Lock()
	j.queue = append(j.queue, fn)
	j.mu.Unlock()
	j.ready.Signal()
}

func (j *jobs) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.queue)
}

// run works until the queue is closed and empty.
func (j *jobs) run() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		for len(j.queue) == 0 {
			if j.closed {
				return
			}
			j.ready.Wait()
		}
		fn := j.queue[0]
		j.queue[0] = nil
		j.queue = j.queue[1:]
		j.mu.Unlock()
		fn()
		j.mu.Lock()
	}
}

func (j *jobs) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.ready.Broadcast()
}
