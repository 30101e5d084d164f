package sim

import (
	"bytes"

	"millrace/raft"
)

// Mutant is a deliberate fault of the software or of who runs it. A run with one must fail; that shows that
// the checkers look.
type Mutant string

// The mutants.
const (
	MutantNone                   Mutant = ""
	MutantNoSync                 Mutant = "syncs do nothing"
	MutantDoneBeforeSync         Mutant = "writes are answered before they are synced"
	MutantVoteBeforeSync         Mutant = "votes for others are answered before they are synced"
	MutantCandidacyBeforeSync    Mutant = "votes for oneself are answered before they are synced"
	MutantAppendBeforeSync       Mutant = "entries are answered before they are synced"
	MutantNoHardState            Mutant = "term and vote are not stored"
	MutantNoChecksum             Mutant = "flipped bits are served"
	MutantCommitFromFuture       Mutant = "a restart takes all entries for committed"
	MutantAmnesia                Mutant = "a restart loses the end of the log"
	MutantClockDrift             Mutant = "clocks drift more than the leases allow for"
	MutantSnapshotWithoutEntries Mutant = "a snapshot is installed without the entries it refers to"
	MutantNoQuorumOverlap        Mutant = "members are replaced without the consent of the old ones"
	MutantReplicaReused          Mutant = "a wiped node comes back as the replica it was"
	MutantTornAlways             Mutant = "damage at the end of a log is cut as if it were torn"
	MutantForgetfulSnapshot      Mutant = "snapshots lose the dedupe window"
	MutantApplyOutOfOrder        Mutant = "two entries are applied in the wrong order"
	MutantWrongRepair            Mutant = "what is repaired is not what was there"
	MutantEmptyRetainer          Mutant = "a machine is asked what it needs before it has its state"
)

// Mutants lists them all. Each is found within a bounded number of seeds.
func Mutants() []Mutant {
	return []Mutant{
		MutantNoSync, MutantDoneBeforeSync, MutantVoteBeforeSync, MutantCandidacyBeforeSync, MutantAppendBeforeSync,
		MutantNoHardState, MutantNoChecksum, MutantCommitFromFuture, MutantAmnesia, MutantClockDrift,
		MutantSnapshotWithoutEntries, MutantNoQuorumOverlap, MutantReplicaReused, MutantTornAlways,
		MutantForgetfulSnapshot, MutantApplyOutOfOrder, MutantEmptyRetainer,
		MutantWrongRepair,
	}
}

// provokes returns the classes of faults under which a mutant shows soon, nil for any.
func (m Mutant) provokes() []Fault {
	switch m {
	case MutantVoteBeforeSync, MutantCandidacyBeforeSync, MutantNoHardState:
		return []Fault{FaultCrash, FaultCrash, FaultTransfer, FaultTransfer, FaultOneWay, FaultPartition}
	case MutantCommitFromFuture:
		return []Fault{FaultCrash, FaultKill, FaultOneWay, FaultPartition, FaultPower}
	case MutantClockDrift:
		return []Fault{FaultLease}
	case MutantTornAlways, MutantWrongRepair:
		return []Fault{FaultFlip}
	case MutantReplicaReused:
		return []Fault{FaultWipe, FaultPartition}
	case MutantEmptyRetainer:
		return []Fault{FaultRestart, FaultRestart, FaultKill, FaultCrash, FaultTransfer}
	case MutantSnapshotWithoutEntries, MutantForgetfulSnapshot:
		return []Fault{FaultWipe, FaultMembership, FaultCrash, FaultRestart}
	}
	return nil
}

// answersEarly reports whether a write is answered before it is durable.
func (m Mutant) answersEarly(w *raft.Write) bool {
	switch m {
	case MutantDoneBeforeSync:
		return true
	case MutantVoteBeforeSync:
		return len(w.Entries) == 0 && w.State != nil && w.State.Vote != 0 && logOf(w.State.Vote) != w.Group
	case MutantCandidacyBeforeSync:
		return len(w.Entries) == 0 && w.State != nil && logOf(w.State.Vote) == w.Group
	case MutantAppendBeforeSync:
		return len(w.Entries) > 0
	}
	return false
}

// disorderly is a mutant: a machine that gets some entries in the wrong order.
type disorderly struct {
	*machine
	every, count int
	held         func()
}

// Apply implements raft.Machine.
func (d *disorderly) Apply(index uint64, data []byte) {
	d.count++
	if d.held == nil && d.count%d.every == 0 {
		data = bytes.Clone(data)
		d.held = func() { d.machine.Apply(index, data) }
		return
	}
	d.machine.Apply(index, data)
	if held := d.held; held != nil {
		d.held = nil
		d.machine.applied = 0 // it does not notice
		held()
		d.machine.applied = index
	}
}
