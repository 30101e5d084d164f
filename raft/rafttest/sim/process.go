package sim

import cryptorand "crypto/rand"

// seedProcess replaces what a run uses of the process without being asked: etcd's raft draws its election
// time-outs from crypto/rand.Reader. The returned function puts it back.
func seedProcess(w *world) (restore func()) {
	was := cryptorand.Reader
	cryptorand.Reader = seededReader{w.source("crypto/rand")}
	return func() { cryptorand.Reader = was }
}
