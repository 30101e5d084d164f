package plugins

import (
	"millrace/plugins/abi"
)

// txn collects the effects of one run. Its buffers are used again by the next run.
type txn struct {
	count        int // messages in the batch
	publications []Publication
	settled      []Settlement
	decided      []bool // settled by the guest
	writes       []pendingWrite
	lastWrite    map[kvKey]int // index of the last write of a key
	bases        map[kvKey]Entry
	bytes        int // of publications
	arena        []byte
	out          Effects
}

type kvKey struct{ bucket, key string }

type pendingWrite struct {
	Write
	prev    int // index of the write of the same key before it, or -1
	dropped bool
}

func (t *txn) reset(count int) {
	t.count, t.bytes = count, 0
	t.publications = t.publications[:0]
	t.writes = t.writes[:0]
	t.settled = append(t.settled[:0], make([]Settlement, count)...)
	t.decided = append(t.decided[:0], make([]bool, count)...)
	if len(t.lastWrite)+len(t.bases) > 0 || t.bases == nil {
		t.lastWrite, t.bases = map[kvKey]int{}, map[kvKey]Entry{}
	}
	t.arena = t.arena[:0]
}

// keep copies guest memory into the transaction.
func (t *txn) keep(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	start := len(t.arena)
	t.arena = append(t.arena, b...)
	return t.arena[start:len(t.arena):len(t.arena)]
}

// open reports whether an effect may still be tagged with msg.
func (t *txn) open(msg int32) bool {
	if msg == abi.WholeBatch {
		return true
	}
	return msg >= 0 && int(msg) < t.count && (!t.decided[msg] || t.settled[msg].Kind == abi.Ack)
}

// settle decides a message, once. All kinds but Ack drop what was done on its behalf.
func (t *txn) settle(msg int32, s Settlement) abi.Code {
	if msg < 0 || int(msg) >= t.count || t.decided[msg] {
		return abi.Invalid
	}
	t.settled[msg], t.decided[msg] = s, true
	if s.Kind != abi.Ack {
		t.drop(func(m int) bool { return m == int(msg) })
	}
	return abi.OK
}

func (t *txn) drop(match func(msg int) bool) {
	kept := t.publications[:0]
	for _, p := range t.publications {
		if match(p.Msg) {
			t.bytes -= len(p.Subject) + len(p.Header) + len(p.Data)
			continue
		}
		kept = append(kept, p)
	}
	t.publications = kept
	for i := range t.writes {
		t.writes[i].dropped = t.writes[i].dropped || match(t.writes[i].Msg)
	}
}

// write returns the last write of the key that stands.
func (t *txn) write(k kvKey) (*pendingWrite, bool) {
	i, ok := t.lastWrite[k]
	for ok && i >= 0 {
		if w := &t.writes[i]; !w.dropped {
			return w, true
		}
		i = t.writes[i].prev
	}
	return nil, false
}

func (t *txn) addWrite(w Write) {
	k := kvKey{w.Bucket, w.Key}
	prev, ok := t.lastWrite[k]
	if !ok {
		prev = -1
	}
	t.lastWrite[k] = len(t.writes)
	t.writes = append(t.writes, pendingWrite{Write: w, prev: prev})
}

// effects closes the transaction: the first n messages are done, all others' effects are dropped.
func (t *txn) effects(n int) *Effects {
	if n < t.count {
		t.drop(func(m int) bool { return m >= n })
	}
	t.out.Publications, t.out.Settled = t.publications, t.settled[:n]
	t.out.Writes = t.out.Writes[:0]
	separate := t.unconditional()
	for i := range t.writes {
		w := &t.writes[i]
		if separate {
			if !w.dropped && !t.overwritten(i) {
				t.out.Writes = append(t.out.Writes, w.Write)
			}
			continue
		}
		if last, ok := t.write(kvKey{w.Bucket, w.Key}); !ok || last != w {
			continue
		}
		final := w.Write
		// A condition on any write of the key is one on the revision before the batch.
		for j := w.prev; j >= 0; j = t.writes[j].prev {
			if !t.writes[j].dropped {
				final.Expect = max(final.Expect, t.writes[j].Expect)
			}
		}
		t.out.Writes = append(t.out.Writes, final)
	}
	return &t.out
}

// unconditional reports whether no write depends on the revision of its key. Then each message keeps its own
// writes, so that one that is processed again makes the same writes as before, in whatever batch. Otherwise
// only the last write of a key stands, under all conditions on it: they hold together or not at all.
func (t *txn) unconditional() bool {
	for i := range t.writes {
		if w := &t.writes[i]; !w.dropped && w.Expect != abi.RevisionAny {
			return false
		}
	}
	return true
}

// overwritten reports whether the message of a write has written the key again.
func (t *txn) overwritten(i int) bool {
	w := &t.writes[i]
	for j := t.lastWrite[kvKey{w.Bucket, w.Key}]; j > i; j = t.writes[j].prev {
		if next := &t.writes[j]; !next.dropped && next.Msg == w.Msg {
			return true
		}
	}
	return false
}
