package raft

import "millrace/raft/core"

// FrameMessages calls yield for each raft message in a frame that a Host handed to its Transport, in order; the
// offer of a snapshot is not one. It is for those who watch what a host says; a Host reads frames by itself. It
// returns an error that wraps ErrBadFrame for what no Host sends.
func FrameMessages(frame []byte, yield func(group GroupID, m *core.Message)) error {
	return decodeFrame(frame, func(_ uint64, r *record) {
		if r.kind == recMessage {
			yield(r.group, &r.msg)
		}
	})
}
