package journal

import (
	"fmt"
	"maps"
	"slices"
)

// Snapshot is a stored state of a group's machine: what it holds, and the objects that make it up.
type Snapshot struct {
	Index, Term uint64
	Members     []byte // opaque to the journal
	Objects     uint64 // key of the first object; the others have the keys after it
	Count       int    // of objects, below 1<<32
	Bytes       int64  // of all objects together
	Checksum    uint32 // CRC-32C of their bytes, one after the other
}

// object says where the blob of a key is: in memory while it is queued.
type object struct {
	blob *blob
	seg  uint32
	row
}

// snapshotBlob is the SNAPSHOT record of a snapshot.
func snapshotBlob(s *Snapshot) *blob {
	return &blob{kind: kindSnapshot, index: s.Index, term: s.Term, payload: encodeSnapshot(s)}
}

// StoredSnapshot returns the newest snapshot of a group, queued or not; false when it has none. The
// members must not be changed.
func (l *Log) StoredSnapshot(group uint64) (Snapshot, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil || g.snap == nil {
		return Snapshot{}, false
	}
	return *g.snap, true
}

// PutObject queues a blob under a key of the group's own, in place of one that is there. It is durable
// when a later Write of the group is, or when done, if not nil, is called, like Write.Done. The data
// must not change any more. A blob that Admit refuses is a bug of the caller and panics.
func (l *Log) PutObject(id, key uint64, data []byte, done func()) {
	it := item{blob: &blob{kind: kindObject, index: key, payload: data}, done: done}
	it.add(len(data), footGroupMax+16)
	l.checkFits(id, &it)
	l.enqueueItem(id, it, func(g *group, it *item) {
		if g.objects == nil {
			g.objects = make(map[uint64]object)
		}
		if was, ok := g.objects[key]; ok && was.blob == nil {
			g.pin(was.seg, l.enqueued+1, l.durable)
		}
		g.objects[key] = object{blob: it.blob}
		l.lookAgainLocked()
	})
}

// checkFits panics when an item that cannot be split has no room in a segment.
func (l *Log) checkFits(group uint64, it *item) {
	if l.oversize(it) {
		panic(fmt.Sprintf("BUG: journal: group %d writes a record of %d bytes; Admit refuses it", group, it.bytes))
	}
}

// DeleteObjects deletes blobs; keys that hold none are ignored. It is durable within a second.
func (l *Log) DeleteObjects(group uint64, keys ...uint64) {
	l.mu.Lock()
	g := l.groups[group]
	var wake wake
	if g != nil && l.err == nil && !l.closed {
		var found []uint64
		var segs []uint32
		for _, key := range keys {
			if was, ok := g.objects[key]; ok {
				delete(g.objects, key)
				found = append(found, key)
				if was.blob == nil {
					segs = append(segs, was.seg)
				}
			}
		}
		for some := range slices.Chunk(found, 512) {
			wake = l.enqueueLocked(removeItem(g, some), false) | wake
		}
		for _, seg := range segs {
			g.pin(seg, l.enqueued, l.durable)
		}
	}
	l.mu.Unlock()
	l.rouse(wake)
}

// removeItem is an OBJECTDEL record.
func removeItem(g *group, keys []uint64) item {
	b := &blob{kind: kindObjectDel}
	for _, key := range keys {
		b.payload = le.AppendUint64(b.payload, key)
	}
	it := item{group: g, blob: b}
	it.add(len(b.payload), footGroupMax+8*len(keys))
	return it
}

// enqueueItem queues an item of a group that may be new, unless the log has ended or the group was
// dropped. note enters it into the group's table.
func (l *Log) enqueueItem(id uint64, it item, note func(*group, *item)) {
	l.mu.Lock()
	var wake wake
	if _, dropped := l.dropped[id]; !dropped && l.err == nil && !l.closed {
		g := l.groups[id]
		if g == nil {
			g = newGroup(id)
			l.groups[id] = g
		}
		it.group = g
		note(g, &it)
		wake = l.enqueueLocked(it, it.done != nil)
	}
	l.mu.Unlock()
	l.rouse(wake)
}

// ObjectKeys returns the keys of a group's blobs, sorted.
func (l *Log) ObjectKeys(group uint64) []uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(g.objects))
}

// Object returns a blob, checked against its checksum; it must not be changed. Errors: ErrNoObject,
// ErrUnknownGroup, ErrClosed, *CorruptError, or that of the read.
func (l *Log) Object(group, key uint64) ([]byte, error) {
	data, err := l.object(group, key)
	if err != nil {
		return nil, fmt.Errorf("read object %d of group %d: %w", key, group, err)
	}
	return data, nil
}

func (l *Log) object(group, key uint64) ([]byte, error) {
	o, s, err := l.findObject(group, key)
	if err != nil || s == nil {
		return o.payload(), err
	}
	rec, err := s.readRecord(o.row)
	if cerr := s.release(); err == nil {
		err = cerr
	}
	if err == nil && (rec.kind != kindObject || rec.group != group || rec.index != key) {
		err = s.corrupt(o.row, "a %v record of group %d stands where object %d of group %d was written", rec.kind,
			rec.group, key, group)
	}
	return rec.data, err
}

func (o object) payload() []byte {
	if o.blob == nil {
		return nil
	}
	return o.blob.payload
}

// findObject returns where a blob is. The caller owns a reference to the segment, if it is in one.
func (l *Log) findObject(group, key uint64) (object, *segment, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	g := l.groups[group]
	if g == nil {
		return object{}, nil, ErrUnknownGroup
	}
	o, ok := g.objects[key]
	if !ok {
		return object{}, nil, ErrNoObject
	}
	if o.blob != nil {
		return o, nil, nil
	}
	s := l.segs[o.seg]
	if s == nil {
		return object{}, nil, ErrClosed
	}
	s.refs.Add(1)
	return o, s, nil
}

// readRecord reads a record and checks every byte of it.
func (s *segment) readRecord(r row) (record, error) {
	b := make([]byte, recordBytes+int(r.length))
	off := int64(r.off) - recordBytes
	if off < dataOffset || off+int64(len(b)) > s.capacity {
		return record{}, s.corrupt(r, "no record can stand there")
	}
	if err := readFull(s.file, b, off); err != nil {
		return record{}, fmt.Errorf("read %s at offset %d: %w", s.file.Name(), s.physical(off), err)
	}
	h, err := decodeRecordHeader(b, s.seed)
	switch {
	case err != nil:
		return record{}, s.corrupt(r, "%v", err)
	case h.length != r.length:
		return record{}, s.corrupt(r, "a record of %d bytes stands where one of %d was written", h.length, r.length)
	case !h.payloadOK(s.version, s.seed, b[recordBytes:]):
		return record{}, s.corrupt(r, "payload of %v record, group %d index %d, has a wrong checksum", h.kind, h.group,
			h.index)
	}
	return record{recordHeader: h, off: r.off, data: b[recordBytes:]}, nil
}

// corrupt is the error for a record that is not what was written.
func (s *segment) corrupt(r row, format string, args ...any) error {
	return &CorruptError{File: s.file.Name(), Offset: s.physical(int64(r.off) - recordBytes), Reason: fmt.Sprintf(format, args...)}
}
