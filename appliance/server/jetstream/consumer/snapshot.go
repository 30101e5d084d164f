package consumer

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"millrace/appliance/server/jetstream/api"
)

// snapshotVersion is the format of Snapshot: version byte; config; flags (1: started); uvarints
// delivered, floor (consumer, stream each), horizon; varints last delivery, last ack; count of
// pending messages and for each, relative to the one before, uvarint sequence and consumer sequence,
// then varint time, varint deadline (0: never) after that time, uvarint deliveries, flags (1: naked);
// count of exceeded messages and for each uvarint sequence, relative, and uvarint deliveries.
const snapshotVersion = 1

// Snapshot returns the state. Equal histories give equal bytes.
func (m *Machine) Snapshot() []byte {
	buf := make([]byte, 0, 64+m.pending.live*12+len(m.exceeded)*4)
	buf = appendConfig(append(buf, snapshotVersion), &m.cfg)
	var flags byte
	if m.started {
		flags = 1
	}
	buf = append(buf, flags)
	for _, v := range [...]uint64{m.delivered.Consumer, m.delivered.Stream, m.floor.Consumer, m.floor.Stream, m.horizon} {
		buf = binary.AppendUvarint(buf, v)
	}
	buf = binary.AppendVarint(buf, m.deliveredAt)
	buf = binary.AppendVarint(buf, m.ackedAt)
	buf = binary.AppendUvarint(buf, uint64(m.pending.live))
	var last entry
	m.forEach(func(p *entry) {
		buf = binary.AppendUvarint(buf, p.seq-last.seq)
		buf = binary.AppendUvarint(buf, p.dseq-last.dseq)
		buf = binary.AppendVarint(buf, p.at-last.at)
		var wait int64
		if p.deadline != never {
			// Shifted by one away from 0, which means never.
			if wait = p.deadline - p.at; wait >= 0 {
				wait++
			}
		}
		buf = binary.AppendVarint(buf, wait)
		buf = binary.AppendUvarint(buf, uint64(p.count))
		flags = 0
		if p.naked {
			flags = 1
		}
		buf = append(buf, flags)
		last = *p
	})
	buf = binary.AppendUvarint(buf, uint64(len(m.exceeded)))
	var prev uint64
	for _, seq := range slices.Sorted(maps.Keys(m.exceeded)) {
		buf = binary.AppendUvarint(buf, seq-prev)
		buf = binary.AppendUvarint(buf, uint64(m.exceeded[seq]))
		prev = seq
	}
	return buf
}

// Restore replaces the state by a snapshot. After an error the machine is void.
func (m *Machine) Restore(data []byte) error {
	r := reader{buf: data}
	if v := r.byte(); r.err == nil && v != snapshotVersion {
		return fmt.Errorf("%w: snapshot version %d", ErrFormat, v)
	}
	n := New()
	n.timed = m.timed
	n.cfg = r.config()
	n.started = r.byte()&1 != 0
	for _, p := range [...]*uint64{&n.delivered.Consumer, &n.delivered.Stream, &n.floor.Consumer, &n.floor.Stream, &n.horizon} {
		*p = r.positive(maxSeq, "sequence")
	}
	n.deliveredAt, n.ackedAt = r.varint(), r.varint()
	var last entry
	for range r.positive(uint64(len(r.buf)), "number of pending messages") {
		p := entry{
			seq:  last.seq + r.positive(maxSeq, "sequence"),
			dseq: last.dseq + r.positive(maxSeq, "consumer sequence"),
			at:   last.at + r.varint(),
		}
		wait := r.varint()
		p.count = uint32(r.positive(1<<32-1, "deliveries"))
		p.naked = r.byte()&1 != 0
		if r.err != nil {
			return r.err
		}
		switch {
		case wait == 0:
			p.deadline = never
		case wait > 0:
			p.deadline = p.at + wait - 1
		default:
			p.deadline = p.at + wait
		}
		if p.seq <= last.seq || p.dseq <= last.dseq || p.count == 0 || n.cfg.AckPolicy == api.AckNone ||
			p.at < 0 || p.at > maxTime || p.deadline < 0 {
			return fmt.Errorf("%w: pending message %d", ErrFormat, p.seq)
		}
		if p.count > 1 {
			n.again++
		}
		n.pending.push(p)
		last = p
	}
	var prev uint64
	for range r.positive(uint64(len(r.buf)), "number of exceeded messages") {
		delta, count := r.positive(maxSeq, "sequence"), r.positive(1<<32-1, "deliveries")
		if r.err != nil {
			return r.err
		}
		if prev += delta; delta == 0 {
			return fmt.Errorf("%w: exceeded message %d", ErrFormat, prev)
		}
		n.exceeded[prev] = uint32(count)
	}
	if r.err != nil {
		return r.err
	}
	if len(r.buf) > 0 {
		return fmt.Errorf("%w: %d bytes after the snapshot", ErrFormat, len(r.buf))
	}
	n.rebuildTimers()
	if err := n.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	*m = *n
	return nil
}

// check returns an error that names the first invariant of Machine that does not hold.
func (m *Machine) check() error {
	d, f := m.delivered, m.floor
	if f.Consumer > d.Consumer || f.Stream > d.Stream {
		return fmt.Errorf("invariant 1: ack floor %v above delivered %v", f, d)
	}
	if m.horizon != 0 && m.horizon <= d.Stream {
		return fmt.Errorf("horizon %d not above delivered %v", m.horizon, d)
	}
	var err error
	last := entry{seq: f.Stream, dseq: f.Consumer}
	live, again, ready, timed := 0, 0, 0, 0
	m.forEach(func(p *entry) {
		if p.seq <= last.seq || p.dseq <= last.dseq || p.seq > d.Stream || p.dseq > d.Consumer {
			err = fmt.Errorf("invariant 2: pending %d/%d after %d/%d, delivered %v", p.dseq, p.seq, last.dseq, last.seq, d)
		}
		if _, ok := m.exceeded[p.seq]; ok {
			err = fmt.Errorf("invariant 5: sequence %d is pending and exceeded", p.seq)
		}
		last = *p
		live++
		if p.count > 1 {
			again++
		}
		if p.ready {
			ready++
		} else if p.deadline != never {
			timed++
		}
	})
	switch {
	case err != nil:
		return err
	case live != m.pending.live || again != m.again || ready != m.ready:
		return fmt.Errorf("counts: %d/%d live, %d/%d again, %d/%d ready", live, m.pending.live, again, m.again, ready, m.ready)
	case live == 0 && f != d:
		return fmt.Errorf("invariant 2: nothing pending, floor %v, delivered %v", f, d)
	case m.cfg.AckPolicy == api.AckNone && live > 0:
		return fmt.Errorf("invariant 3: %d pending with ack policy none", live)
	}
	seen := map[uint64]bool{}
	for _, t := range m.timers {
		if m.valid(t) != nil {
			seen[t.seq] = true
		}
	}
	for _, t := range m.due[m.dueHead:] {
		if p := m.pending.find(t.seq); p != nil && p.ready && p.deadline == t.deadline {
			seen[t.seq] = true
		}
	}
	if m.timed && len(seen) != ready+timed {
		return fmt.Errorf("invariant 4: %d of %d deadlines are kept", len(seen), ready+timed)
	}
	for seq := range m.exceeded {
		if seq > d.Stream {
			return fmt.Errorf("invariant 5: exceeded sequence %d above delivered %v", seq, d)
		}
	}
	return nil
}
