package jetstream

import (
	"fmt"

	"millrace/appliance/server/jetstream/meta"
)

// idDigits are those of the ids that people and tools see.
const idDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// shortID writes a number below 62^8, as the ids of nodes without their low bits and those of groups are, in 8
// characters.
func shortID(n uint64) string {
	var b [8]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = idDigits[n%uint64(len(idDigits))]
		n /= uint64(len(idDigits))
	}
	return string(b[:])
}

// peerID is how the API names a node.
func peerID(node uint64) string { return shortID(node >> meta.NodeBits) }

// groupName is how the API names the group of a stream (S) or consumer (C). It stays the same for the life of
// the group: the number of replicas in it is the one with which it began.
func groupName(kind string, g *meta.Group, memory bool) string {
	storage := "F"
	if memory {
		storage = "M"
	}
	return fmt.Sprintf("%s-R%d%s-%s", kind, len(g.Began), storage, shortID(g.ID))
}
