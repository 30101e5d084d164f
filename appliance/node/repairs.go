package node

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"millrace/appliance/server/jetstream/meta"
	"millrace/raft"
	"millrace/storage/journal"
)

// repairWait bounds the time for which a reader waits for another node to give what the disk of this one has lost.
const repairWait = 3 * time.Second

// maxRepairs is how often one read is repaired: what it needs may lie in several places.
const maxRepairs = 3

// repairedLog is the journal as the engine reads it: what is damaged is brought back from another replica, and read
// then. What nobody else has is the error that it was, with the reason.
type repairedLog struct {
	*journal.Log
	groups *groups
	log    *slog.Logger
}

// ReadAt fills p from byte off of the entry at index.
func (l repairedLog) ReadAt(log, index uint64, off int, p []byte) error {
	return l.repair(log, raft.Damage{At: index, Off: uint32(off), Len: uint32(len(p))}, func() error {
		return l.Log.ReadAt(log, index, off, p)
	})
}

// Stat returns the size of an entry's data and the term it is of. One byte of it brings these: what of it is needed
// must not be asked for here, as the machine may be the one who asks.
func (l repairedLog) Stat(log, index uint64) (term uint64, size uint32, err error) {
	err = l.repair(log, raft.Damage{At: index, Len: 1}, func() (err error) {
		term, size, err = l.Log.Stat(log, index)
		return err
	})
	return term, size, err
}

// Object returns a blob.
func (l repairedLog) Object(log, key uint64) (data []byte, err error) {
	err = l.repair(log, raft.Damage{Object: true, At: key}, func() (err error) {
		data, err = l.Log.Object(log, key)
		return err
	})
	return data, err
}

// repair reads, and repairs what is damaged.
func (l repairedLog) repair(log uint64, d raft.Damage, read func() error) error {
	err := read()
	if !errors.As(err, new(*journal.CorruptError)) {
		return err
	}
	l.log.Error("stored data is damaged", "group", meta.GroupOfLog(log), "what", d.String(), "error", err)
	for n := 0; n < maxRepairs && errors.As(err, new(*journal.CorruptError)); n++ {
		no := l.groups.repair(log, d)
		if no != nil {
			return fmt.Errorf("%w (%w)", err, no)
		}
		err = read()
	}
	return err
}

// repair brings back what is damaged from another replica, and waits for that.
func (g *groups) repair(log uint64, d raft.Damage) error {
	return g.host.AwaitRepair(raft.GroupID(meta.GroupOfLog(log)), log, d, repairWait)
}

// maxDamage bounds what was found damaged and waits to be repaired; more is met again.
const maxDamage = 4096

// damageQueue has what the journal has found damaged by itself. It is repaired one after the other. The zero one keeps
// nothing.
type damageQueue struct {
	list chan journal.Damaged
	stop chan struct{}
	once *sync.Once
	wg   *sync.WaitGroup
}

func newDamageQueue() damageQueue {
	return damageQueue{make(chan journal.Damaged, maxDamage), make(chan struct{}), new(sync.Once), new(sync.WaitGroup)}
}

// add does not block.
func (q *damageQueue) add(d journal.Damaged) {
	select {
	case q.list <- d:
	default:
	}
}

func (q *damageQueue) close() {
	if q.stop == nil {
		return
	}
	q.once.Do(func() { close(q.stop) })
	q.wg.Wait()
}

// run repairs until close.
func (q *damageQueue) run(g *groups, log *slog.Logger) {
	for {
		select {
		case <-q.stop:
			return
		case d := <-q.list:
			err := g.repair(d.Group, raft.Damage{Object: d.Object, At: d.At})
			switch {
			case errors.Is(err, raft.ErrNotNeeded):
			case err != nil:
				log.Error("stored data is damaged and cannot be repaired", "group", meta.GroupOfLog(d.Group), "error", d.Err, "cause", err)
			}
		}
	}
}
