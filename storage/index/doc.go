// Package index finds the messages of one stream: sequence to place in the group's log, subject to
// sequences, time to sequence. It does no I/O, starts no goroutine and knows no clock: the machine
// of a stream feeds it in order, and equal calls leave equal state on every replica, byte for byte.
//
// A message takes about ten bytes, and almost none of them in the heap: each [BlockLen] messages
// become an immutable block of packed columns ([Blocks] keeps it), of which a summary of about a hundred
// bytes stays, and what is dead in it. Blocks are used as they are, without decoding; a [Cache]
// of a bounded number of bytes, which all indexes of a node share, keeps those in use. A subject takes
// about 60 bytes and its name.
//
// Read in this order: index.go (the index and its invariants), format.go (the bytes of a block),
// block.go, blocklist.go (summaries), openblock.go, subjects.go, names.go, order.go, filter.go (subjects),
// walk.go (searches along a subject), query.go, live.go (for garbage collection), merge.go,
// capture.go, snapshot.go and restore.go.
package index
