package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"millrace/raft"
	"millrace/storage/journal"
)

// client does one operation after the other, each of a group and at a node of its choice, as one process of
// an application would. What was not answered in time is given up and stays undecided, but for publishes:
// they are tried again, at any node, until they are answered.
type client struct {
	id      uint64
	cluster *cluster
	rnd     *rand.Rand
	next    uint64 // number of the next operation
	value   uint64 // written last; no two writes of a run are equal
	op      *operation
	group   uint64
	node    int
	try     uint64 // number of the present attempt; answers of others are late
	think   time.Duration
	leads   map[uint64]int // node that led a group when it last answered
	stopped bool
}

const (
	clientPatience = 3 * time.Second // until an attempt is given up
	clientKeys     = 3               // registers of a group
)

func newClient(c *cluster, id uint64) *client {
	rnd := c.world.source(fmt.Sprintf("client %d", id))
	return &client{
		id: id, cluster: c, rnd: rnd, leads: make(map[uint64]int),
		think: between(rnd, time.Millisecond, 120*time.Millisecond),
	}
}

// start does the next operation after a while.
func (c *client) start() {
	c.cluster.world.after(time.Duration(c.rnd.ExpFloat64()*float64(c.think)), c.begin)
}

func (c *client) begin() {
	if c.stopped {
		return
	}
	if idle := c.cluster.quiet - c.cluster.world.now; idle > 0 && c.cluster.faults {
		c.cluster.world.after(idle, c.begin)
		return
	}
	c.next++
	groups := c.cluster.groups
	c.group = groups[c.rnd.IntN(len(groups))]
	cmd := command{client: c.id, id: c.next, key: c.rnd.Uint64N(clientKeys)}
	history := c.cluster.check.group(c.group)
	switch k := c.rnd.IntN(100); {
	case k < 15:
		c.value++
		cmd.kind, cmd.value = opPut, c.id<<32|c.value
	case k < 25:
		c.value++
		cmd.kind, cmd.value = opCas, c.id<<32|c.value
		if n := len(history.list); n > 0 { // a value that was written lately
			cmd.old = history.list[max(0, n-1-c.rnd.IntN(8))].command.value
		}
	case k < 30:
		cmd.kind = opGet
	case k < 55:
		cmd.kind = opRead
	case k < 90:
		cmd.kind, cmd.key = opPublish, 0
		for range 1 + c.rnd.IntN(3) {
			size := 1 + c.rnd.IntN(200)
			if c.rnd.IntN(20) == 0 {
				size = 1 + c.rnd.IntN(5000)
			}
			message := make([]byte, size)
			for i := range message {
				message[i] = byte(c.rnd.Uint32())
			}
			cmd.messages = append(cmd.messages, message)
		}
	default:
		cmd.kind, cmd.key = opDelete, 1+c.rnd.Uint64N(uint64(len(history.messages))+1)
	}
	c.op = &operation{client: c.id, command: cmd, call: c.cluster.world.now}
	history.called(c.op)
	c.attempt()
}

// attempt sends the operation to a node.
func (c *client) attempt() {
	w := c.cluster.world
	c.try++
	try := c.try
	node, known := c.leads[c.group]
	if !known || c.rnd.IntN(50) == 0 {
		node = c.rnd.IntN(len(c.cluster.nodes))
	}
	c.node = node
	op := c.op
	w.after(between(c.rnd, 20*time.Microsecond, 300*time.Microsecond), func() {
		n := c.cluster.nodes[node]
		if !n.alive() || n.aside {
			c.answer(try, result{}, errNodeDown)
			return
		}
		n.call(func() {
			n.serve(c.group, op, func(r result, err error) {
				w.after(between(c.rnd, 20*time.Microsecond, 300*time.Microsecond), func() { c.answer(try, r, err) })
			})
		})
	})
	w.after(clientPatience, func() {
		if c.try == try && c.op == op {
			c.answer(try, result{}, errPatience)
		}
	})
}

var (
	errNodeDown = errors.New("sim: the node is down")
	errNoGroup  = errors.New("sim: the node has no such group")
	errPatience = errors.New("sim: no answer in time")
	errRead     = errors.New("sim: the read was not confirmed")
)

// refused reports whether an error says that the operation was not done and will not be.
func refused(err error) bool {
	for _, e := range []error{errNodeDown, errNoGroup, errRead, raft.ErrNotLeader, raft.ErrBusy, raft.ErrStopped, journal.ErrFull, journal.ErrBusy} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// answer ends an attempt.
func (c *client) answer(try uint64, r result, err error) {
	if try != c.try || c.op == nil {
		return
	}
	w, op := c.cluster.world, c.op
	c.try++ // what else comes for this attempt is late
	switch {
	case err == nil:
		w.note("answer", c.id, op.command.id, r.value, boolNumber(r.ok))
		c.leads[c.group] = c.node
		c.cluster.check.group(c.group).answered(op, r, w.now)
		c.cluster.check.acks++
		c.cluster.stats.Answered++
	case !refused(err) && !errors.Is(err, errPatience):
		c.cluster.check.fail(CheckProcess, "client %d: %v", c.id, err)
		return
	default:
		delete(c.leads, c.group)
		w.note("no answer", c.id, op.command.id)
		if refused(err) {
			c.cluster.stats.Refused++
		} else {
			c.cluster.stats.Undecided++
		}
		if op.command.kind == opPublish || refused(err) {
			// Nothing happened, or it may happen twice: try again.
			if !c.stopped {
				w.after(between(c.rnd, time.Millisecond, 100*time.Millisecond), func() {
					if c.op == op {
						c.attempt()
					}
				})
				return
			}
		}
		op.refused = refused(err)
	}
	c.op = nil
	c.start()
}

func (op *operation) String() string {
	c := &op.command
	text := fmt.Sprintf("%s of client %d, called at %v", c.kind, op.client, op.call)
	switch c.kind {
	case opPut:
		text += fmt.Sprintf(", register %d = %#x", c.key, c.value)
	case opCas:
		text += fmt.Sprintf(", register %d = %#x if %#x", c.key, c.value, c.old)
	case opGet, opRead:
		text += fmt.Sprintf(", register %d", c.key)
	}
	if op.ret != 0 {
		text += fmt.Sprintf(", answered at %v with %t %#x", op.ret, op.result.ok, op.result.value)
	}
	if op.took != 0 {
		text += fmt.Sprintf(", applied at %v", op.took)
	}
	return text
}
