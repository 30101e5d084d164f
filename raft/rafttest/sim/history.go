package sim

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// operation is one thing that a client asked of a group.
type operation struct {
	client  uint64
	command command
	call    time.Duration
	ret     time.Duration // when it was answered; 0: not
	result  result
	refused bool          // it has not happened and will not
	took    time.Duration // when it was applied for the first time; 0: not known to be
}

type ackedOperation struct {
	client  uint64
	command command
	result  result
}

// operations is the history of a group as its clients see it.
type operations struct {
	list  []*operation
	byID  map[publishID]*operation
	acked []ackedOperation
}

func newOperations() operations { return operations{byID: make(map[publishID]*operation)} }

func (o *operations) called(op *operation) {
	o.list = append(o.list, op)
	o.byID[publishID{op.command.client, op.command.id}] = op
}

// committed is called when a command is applied for the first time.
func (o *operations) committed(c *command, now time.Duration) {
	if op := o.byID[publishID{c.client, c.id}]; op != nil && op.took == 0 {
		op.took = now
	}
}

// answered is called when a client gets an answer.
func (o *operations) answered(op *operation, r result, now time.Duration) {
	op.ret, op.result = now, r
	o.acked = append(o.acked, ackedOperation{op.client, op.command, r})
}

// linearLimit bounds the work of porcupine for one register. A history that takes longer counts as
// undecided, which the statistics of a run tell.
const linearLimit = 20 * time.Second

// register is porcupine's model of one register.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		value, c, r := state.(uint64), input.(*operation).command, output.(*operation)
		answered := r.ret != 0
		switch c.kind {
		case opPut:
			return !answered || r.result.value == value, c.value
		case opCas:
			ok := value == c.old
			if answered && (r.result.ok != ok || r.result.value != value) {
				return false, value
			}
			if ok {
				return true, c.value
			}
			return true, value
		}
		return !answered || r.result.value == value, value
	},
}

// linearizable checks the registers of all groups.
func (c *checker) linearizable() (undecided int) {
	ids := sortedKeys(c.groups)
	for _, id := range ids {
		byKey := make(map[uint64][]porcupine.Operation)
		for _, op := range c.groups[id].list {
			k := op.command.kind
			if k != opPut && k != opCas && k != opGet && k != opRead || op.refused && op.took == 0 {
				continue
			}
			ret := int64(op.ret)
			switch {
			case op.ret == 0 && (k == opGet || k == opRead):
				continue // nobody saw it, it changed nothing
			case op.ret == 0 && op.took == 0:
				continue // it never happened: all replicas have applied all there is
			case op.ret == 0:
				ret = int64(op.took) // applied, so it has had its effect
			}
			byKey[op.command.key] = append(byKey[op.command.key], porcupine.Operation{
				ClientId: int(op.client), Input: op, Output: op, Call: int64(op.call), Return: ret,
			})
		}
		for _, key := range sortedKeys(byKey) {
			switch porcupine.CheckOperationsTimeout(register, byKey[key], linearLimit) {
			case porcupine.Illegal:
				c.fail(CheckLinearizable, "register %d of group %d: %d operations have no order in which one copy would "+
					"answer so; %s", key, id, len(byKey[key]), describe(byKey[key]))
			case porcupine.Unknown:
				undecided++
			}
		}
	}
	return undecided
}

// describe names the shortest prefix of a history that is not linearizable, by its last operation.
func describe(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	lo, hi := 0, len(ops)
	for lo < hi {
		mid := (lo + hi) / 2
		end := ops[mid].Return
		var part []porcupine.Operation
		for _, op := range ops {
			switch k := op.Input.(*operation).command.kind; {
			case op.Return <= end:
				part = append(part, op)
			case op.Call <= end && k != opGet && k != opRead:
				open := *op.Input.(*operation)
				open.ret = 0
				op.Input, op.Output, op.Return = &open, &open, math.MaxInt64
				part = append(part, op)
			}
		}
		if porcupine.CheckOperationsTimeout(register, part, linearLimit) == porcupine.Ok {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == len(ops) {
		return "no prefix shows it"
	}
	op := ops[lo].Input.(*operation)
	return "the first that shows it: " + op.String()
}
