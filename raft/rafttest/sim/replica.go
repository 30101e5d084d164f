package sim

import (
	"fmt"
	"slices"

	"millrace/raft"
)

// replica is a running replica: what its machine does is told to the checker and to the clients that wait.
type replica struct {
	node      *node
	placement *placement
	group     *raft.Group
	machine   *machine
	waiting   map[publishID][]*waiter
}

// waiter is a client that waits for an operation.
type waiter struct{ answer func(result, error) }

var _ machineEvents = (*replica)(nil)

// applied implements machineEvents.
func (r *replica) applied(m *machine, index uint64, data []byte, c *command, res result) {
	k := r.node.cluster.check
	k.entry(r.placement, m, index, data, c, res)
	id := publishID{c.client, c.id}
	waiting := r.waiting[id]
	if len(waiting) == 0 {
		return
	}
	delete(r.waiting, id)
	r.node.cluster.acknowledged(r.placement, index, data)
	for _, w := range waiting {
		w.answer(res, nil)
	}
}

// lead implements machineEvents.
func (r *replica) lead(_ *machine, term uint64, ready bool) {
	if ready {
		r.node.cluster.check.lead(r.placement, term)
	} else {
		r.node.cluster.world.log("%v leads no more in term %d", r.placement, term)
	}
}

// restored implements machineEvents.
func (r *replica) restored(m *machine, index uint64) {
	c := r.node.cluster
	c.world.log("%v is restored to entry %d", r.placement, index)
	c.stats.Snapshots++
	if index%digestEvery == 0 {
		c.check.digest(r.placement, index, m.digest())
	}
}

// serve does an operation for a client and answers once.
func (n *node) serve(group uint64, op *operation, answer func(result, error)) {
	r := n.serving(group)
	if r == nil {
		answer(result{}, errNoGroup)
		return
	}
	c := &op.command
	if c.kind == opRead {
		r.read(op, answer)
		return
	}
	id := publishID{c.client, c.id}
	mine := &waiter{answer}
	r.waiting[id] = append(r.waiting[id], mine) // an apply may come before Propose returns
	propose := r.group.Propose
	if c.kind == opDelete {
		propose = r.group.ProposeControl
	}
	if err := propose(c.encode()); err != nil {
		r.waiting[id] = slices.DeleteFunc(r.waiting[id], func(w *waiter) bool { return w == mine })
		answer(result{}, err)
	}
}

// serving returns the running replica of a group.
func (n *node) serving(group uint64) *replica {
	for _, p := range n.cluster.on(n.index) {
		if r := n.running[p.log]; p.group == group && r != nil {
			return r
		}
	}
	return nil
}

func (r *replica) String() string { return fmt.Sprint(r.placement) }

// read answers with a register's value, by a round of messages or by a lease.
func (r *replica) read(op *operation, answer func(result, error)) {
	read := r.group.ReadIndex
	if op.command.id%2 == 0 {
		read = r.group.LeaseRead
	}
	r.fresh(read, func(err error) {
		if err != nil {
			answer(result{}, fmt.Errorf("%w: %w", errRead, err))
			return
		}
		answer(result{true, r.machine.registers[op.command.key]}, nil)
	})
}

// fresh reads, and checks that the state which is read has everything that was applied anywhere in the group
// before the read began. That is more than linearizability asks for, it is what raft.Group promises, and seen
// at once.
func (r *replica) fresh(read func(func(error)), done func(error)) {
	k := r.node.cluster.check
	begin, applied := k.world.now, k.group(r.placement.group).highest
	read(func(err error) {
		if err == nil {
			k.reads++
			if r.machine.applied < applied {
				k.fail(CheckStale, "%v serves a read of %v with the state after entry %d, entry %d was applied by then",
					r, begin, r.machine.applied, applied)
			}
		}
		done(err)
	})
}
