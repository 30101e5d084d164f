package raft

import "errors"

var (
	// ErrNotLeader is returned by Propose when this replica does not lead the group, or leads it
	// and has not applied the entry that opens its term.
	ErrNotLeader = errors.New("raft: not the leader")

	// ErrBusy is returned by Propose when the group's proposals that are not applied yet would
	// exceed Config.MaxPendingBytes. Nothing was proposed; try again after entries were applied.
	ErrBusy = errors.New("raft: too many bytes proposed and not applied")

	// ErrStopped is returned when the group or the host was stopped, or the group failed; then the
	// failure is wrapped too.
	ErrStopped = errors.New("raft: stopped")

	// ErrLogFailed is returned by Remove when the store of the logs has failed.
	ErrLogFailed = errors.New("raft: the log store failed")

	// ErrGroupExists is returned by Start when the group runs or is being removed.
	ErrGroupExists = errors.New("raft: group exists")

	// Parts of errors that name the group; callers cannot act on them.
	errMembership = errors.New("membership changes are not supported")
	errRemoving   = errors.New("removal is under way")
)
