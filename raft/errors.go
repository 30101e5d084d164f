package raft

import (
	"errors"

	"millrace/raft/core"
)

var (
	// ErrNotLeader is returned when this replica does not lead the group, leads it and has not applied
	// the entry that opens its term, or is handing over; Group.Leader tells who does. What was asked for
	// and answered with it later, such as a read or a membership change, is undecided.
	ErrNotLeader = errors.New("raft: not the leader")

	// ErrBusy is returned by Propose when the group's proposals that are not applied yet would
	// exceed Config.MaxPendingBytes. Nothing was proposed; try again after entries were applied.
	ErrBusy = errors.New("raft: too many bytes proposed and not applied")

	// ErrChanging is returned by ChangeMembers while an earlier change is under way.
	ErrChanging = errors.New("raft: a membership change is under way")

	// ErrLeading is returned by ChangeMembers when the leader is to leave or to become a learner: it
	// hands over first.
	ErrLeading = errors.New("raft: the leader cannot leave")

	// ErrStopped is returned when the group or the host was stopped, or the group failed; then the
	// failure is wrapped too.
	ErrStopped = errors.New("raft: stopped")

	// ErrLogFailed is returned by Remove when the store of the logs has failed.
	ErrLogFailed = errors.New("raft: the log store failed")

	// ErrGroupExists is returned by Start when the group runs or is being removed.
	ErrGroupExists = errors.New("raft: group exists")

	// ErrLostEntries is what a group fails with when its leader knows that this replica had
	// acknowledged entries which its log does not hold. The replica must not vote with that log; its
	// group goes on without it. It comes back as a new replica with an id of its own.
	ErrLostEntries = errors.New("raft: acknowledged entries are lost here")

	// ErrDiverged is what a group fails with when its leader has another entry where this replica has
	// applied one, or most replicas have another state after the same entry: a disk, memory or whoever runs the group
	// has broken what raft relies on. It cannot be mended here, and asking the leader again would never end. It comes back as a new replica, as above.
	ErrDiverged = errors.New("raft: the applied entries are not those of the leader")

	// ErrDamaged is wrapped by the error of a LogStore for what it has stored and cannot trust. Another replica may have
	// it: see Host.Repair.
	ErrDamaged = core.ErrDamaged

	// ErrNotNeeded is wrapped by the error of a repair of what nobody needs any more.
	ErrNotNeeded = errors.New("raft: nothing of it is needed")

	// ErrBadFrame is wrapped by what is logged of a frame that no Host sends.
	ErrBadFrame = errors.New("raft: bad frame")

	// Parts of errors that name the group; callers cannot act on them.
	errRemoving = errors.New("removal is under way")
)
