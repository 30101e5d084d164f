package stream

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/storage/index"
)

// A snapshot is, in the form of an [index.Writer]; numbers are uvarints if nothing else is said:
//
//	version              1
//	configuration        bytes: JSON of api.StreamConfig; empty if there is none yet
//	first entry applied, 1 if the log begins after its configuration
//	first sequence, last sequence, time of the last (varint), accounted bytes
//	id of the last message (bytes)
//	duplicate window in ns (varint), number of ids, and each, oldest first:
//	  id (bytes), sequence, time (varint), index of its entry
//	the message index, see package index
const snapshotVersion = 1

const maxText = 1 << 26 // bytes of a configuration or an id

// State is a captured state of a machine. It refers to blocks of the index by their keys.
type State struct {
	m       Machine // without ix and the map of ids
	dedupe  dedupe
	capture *index.Capture
}

// Snapshot captures the state after all entries applied so far. It is quick: what is large is shared
// with the machine until the machine changes it. Applying costs more until Release.
func (m *Machine) Snapshot() *State {
	s := &State{m: *m, dedupe: m.dedupe.captured(), capture: m.ix.Capture()}
	s.m.ix, s.m.dedupe = nil, dedupe{}
	return s
}

// WriteTo writes the state. Equal states give equal bytes, on every replica and whether or not they
// were restored in between. It may run while the machine goes on.
func (s *State) WriteTo(to io.Writer) (int64, error) {
	w := index.NewWriter(to)
	w.Uvarint(snapshotVersion)
	var cfg []byte
	if s.m.configured {
		var err error
		if cfg, err = json.Marshal(s.m.cfg); err != nil {
			return 0, fmt.Errorf("encode configuration of stream %q: %w", s.m.cfg.Name, err)
		}
	}
	w.Bytes(cfg)
	w.Uvarint(s.m.begin)
	w.Uvarint(bit(s.m.released))
	w.Uvarint(s.m.first)
	w.Uvarint(s.m.last)
	w.Varint(s.m.lastTime)
	w.Uvarint(s.m.bytes)
	w.Bytes([]byte(s.m.lastMsgID))
	w.Varint(int64(s.dedupe.window))
	w.Uvarint(uint64(s.dedupe.n))
	s.dedupe.each(func(o *messageID) bool {
		w.Bytes([]byte(o.id))
		w.Uvarint(o.seq)
		w.Varint(o.time)
		w.Uvarint(o.index)
		return true
	})
	s.capture.Encode(w)
	n, err := w.Close()
	if err == nil {
		s.capture.Written()
	}
	return n, err
}

// Objects returns the keys of the blocks that the state refers to.
func (s *State) Objects() []uint64 { return s.capture.Keys() }

// Release ends the state, once. If it was written, it must be the group's stored snapshot by now, durably, or
// a later one is: blocks that only older states refer to are deleted.
func (s *State) Release() { s.capture.Release() }

// Abandon ends, in place of Release, a state that was written and has not become the stored one.
func (s *State) Abandon() { s.capture.Abandon() }

// Restore replaces the whole state by one that was written after the entry at index. If it returns an error,
// the machine is as it was.
func (m *Machine) Restore(_ uint64, state io.Reader) error {
	r := index.NewReader(state)
	n := Machine{storage: m.storage}
	if v := r.Uvarint(); v != snapshotVersion {
		r.Failf("version %d", v)
	}
	if b := r.Bytes(nil, maxText); len(b) > 0 {
		var cfg api.StreamConfig
		if err := json.Unmarshal(b, &cfg); err != nil {
			r.Failf("configuration: %v", err)
		}
		n.setConfig(cfg)
	}
	n.begin = r.Uvarint()
	n.released = r.Upto(1, "flag") == 1
	n.first, n.last, n.lastTime, n.bytes = r.Uvarint(), r.Uvarint(), r.Varint(), r.Uvarint()
	n.lastMsgID = string(r.Bytes(nil, maxText))
	if n.dedupe.window = time.Duration(r.Varint()); n.dedupe.window < 0 {
		r.Failf("duplicate window %v", n.dedupe.window)
	}
	for ids := r.Uvarint(); ids > 0 && r.Err() == nil; ids-- {
		n.dedupe.put(messageID{string(r.Bytes(nil, maxText)), r.Uvarint(), r.Varint(), r.Uvarint()})
	}
	ix := m.ix.Decode(r)
	if err := r.Close(); err != nil {
		return err
	}
	first, ok, err := ix.First()
	switch {
	case err != nil:
		return err
	case ok && first.Seq != n.first || !ok && n.first != n.last+1 || ix.Last() > n.last:
		return fmt.Errorf("%w: messages from %d to %d, the index has them from %d to %d",
			index.ErrSnapshot, n.first, n.last, first.Seq, ix.Last())
	}
	m.ix.Become(ix)
	n.ix = m.ix
	*m = n
	return nil
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
