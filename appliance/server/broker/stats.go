package broker

import (
	"runtime/metrics"
	"sync/atomic"
)

// trafficStats counts messages of clients; in is from clients, out is to clients. Bytes are those of
// headers and payloads.
type trafficStats struct {
	inMsgs, inBytes, outMsgs, outBytes atomic.Int64
}

func (t *trafficStats) addIn(msgs, bytes int64) {
	if msgs > 0 {
		t.inMsgs.Add(msgs)
		t.inBytes.Add(bytes)
	}
}

func (t *trafficStats) addOut(msgs, bytes int64) {
	if msgs > 0 {
		t.outMsgs.Add(msgs)
		t.outBytes.Add(bytes)
	}
}

// Traffic is a count of messages and their bytes, header and payload.
type Traffic struct {
	InMsgs, InBytes, OutMsgs, OutBytes int64 // in: from clients, out: to clients
}

func (t *trafficStats) load() Traffic {
	return Traffic{t.inMsgs.Load(), t.inBytes.Load(), t.outMsgs.Load(), t.outBytes.Load()}
}

// Traffic returns what the account's clients have sent and received.
func (a *Account) Traffic() Traffic { return a.stats.load() }

// SlowConsumers returns the number of connections closed because they did not take their messages.
func (b *Broker) SlowConsumers() int64 { return b.slowConsumers.Load() }

// Traffic returns what all clients have sent and received.
func (b *Broker) Traffic() Traffic { return b.stats.load() }

// runtimeMemory returns the bytes the Go runtime holds from the operating system.
func runtimeMemory() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}
