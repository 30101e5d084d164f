package raft

// Lane separates what is urgent from what is much, on the way to another node.
type Lane uint8

// The lanes, most urgent first. Order is kept within a lane only.
const (
	LaneControl Lane = iota // votes, heartbeats, answers
	LaneAppend              // log entries
	LaneBulk                // states and entries for replicas that fell behind, repairs
	Lanes       = 3
)

// Transport carries frames between nodes. It neither knows what they say nor stores them: one that
// cannot be sent at once, or within the room that the lane to its node has, is lost. Frames arrive whole
// and unchanged, at most once, in the order of the lane, or not at all. Its methods are called by several
// goroutines at once. A frame has up to one entry of the largest size that is proposed, and another MiB.
type Transport interface {
	// Send takes over a frame, given in parts that are not copied, and does not block. It returns
	// false if the frame is lost already: the node is not connected, or its lane has no room. One frame
	// is always taken when the lane is empty.
	Send(node uint64, lane Lane, parts [][]byte) bool
	// Room returns how many more bytes the lane to a node would take now; 0 when it is not connected.
	Room(node uint64, lane Lane) int
}

// Receiver gets what other nodes sent: a Host is one. Its methods do not block; for one node and lane
// they are called by one goroutine at a time.
type Receiver interface {
	// Receive is called with a frame. The receiver owns it.
	Receive(node uint64, lane Lane, frame []byte)
	// Connected tells that a node can be reached (again) or, with false, not any more.
	Connected(node uint64, up bool)
	// Drained tells that a lane which had refused a frame has room again.
	Drained(node uint64, lane Lane)
}
