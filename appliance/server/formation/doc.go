// Package formation decides which storage nodes found a cluster: once, by a majority, for ever. It is a
// pure state machine (single-decree Paxos): time, messages and what a node sees of the mesh come in,
// what is to be stored and sent goes out. It neither stores nor sends; package node does, in that
// order. DESIGN.md has the protocol and why it is safe.
//
//	value.go    what is decided
//	message.go  what nodes say to each other, and its bytes
//	state.go    what a node must not forget, and its bytes
//	machine.go  Machine: acceptor and learner
//	proposer.go Machine: proposer
package formation
