package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"

	"millrace/raft"
)

const (
	dedupeWindow = 64 // publishes whose ids a machine remembers
	blockRecords = 16 // published messages in one object
)

// opKind is what a command does.
type opKind uint8

const (
	opPut     opKind = 1 + iota // sets a register
	opCas                       // sets a register that has a certain value
	opGet                       // reads a register by an entry of the log
	opPublish                   // appends messages, once for each id
	opDelete                    // deletes a message
	opRead                      // reads a register without an entry; never in the log
)

func (k opKind) String() string {
	return [...]string{"", "put", "cas", "get", "publish", "delete", "read"}[k]
}

// command is one entry of a group.
type command struct {
	kind       opKind
	client, id uint64 // of the operation; a publish that is tried again has its old ones
	key        uint64 // register, or number of the message to delete
	old, value uint64
	messages   [][]byte
}

// result is what a command answers.
type result struct {
	ok    bool
	value uint64 // of the register before the command, or number of the first message
}

const commandBytes = 1 + 5*8 + 1

func (c *command) encode() []byte {
	b := make([]byte, 1, commandBytes)
	b[0] = byte(c.kind)
	for _, n := range []uint64{c.client, c.id, c.key, c.old, c.value} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	b = append(b, byte(len(c.messages)))
	for _, m := range c.messages {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(m)))
		b = append(b, m...)
	}
	return b
}

// decode reads a command. parts are where the bytes of its messages lie in data.
func decode(data []byte) (c command, parts []raft.Range, err error) {
	if len(data) < commandBytes {
		return c, nil, fmt.Errorf("command of %d bytes", len(data))
	}
	c.kind = opKind(data[0])
	for i, n := range []*uint64{&c.client, &c.id, &c.key, &c.old, &c.value} {
		*n = binary.LittleEndian.Uint64(data[1+8*i:])
	}
	at := commandBytes
	for range int(data[commandBytes-1]) {
		if len(data)-at < 4 {
			return c, nil, errors.New("command is cut")
		}
		size := int(binary.LittleEndian.Uint32(data[at:]))
		if at += 4; len(data)-at < size {
			return c, nil, errors.New("command is cut")
		}
		parts = append(parts, raft.Range{Off: uint32(at), Len: uint32(size)})
		c.messages = append(c.messages, data[at:at+size])
		at += size
	}
	if at != len(data) || c.kind < opPut || c.kind > opDelete {
		return c, nil, fmt.Errorf("command of kind %d with %d of %d bytes", c.kind, at, len(data))
	}
	return c, parts, nil
}

// record is one message: its bytes stay in the log.
type record struct {
	number, index uint64
	part          raft.Range
	sum           uint32
}

// publishID names a publish for ever.
type publishID struct{ client, id uint64 }

// published is a publish inside the window, with the number that its first message got.
type published struct {
	publishID
	number uint64
}

// machine is what the groups of a simulation replicate: registers, and a list of messages that are
// published once. Its state has a part in objects and a part in the entries of the log, as a stream's.
//
//  1. records are sorted by number, and thereby by index.
//  2. An object holds the records of one block as they were published; it never changes.
type machine struct {
	store  raft.SnapshotStore
	log    uint64 // name of the replica's log
	events machineEvents

	applied   uint64
	registers map[uint64]uint64
	records   []record // not deleted
	next      uint64   // number of the next message
	window    []published
	ids       map[publishID]uint64
	open      []record        // of the block that is not full, deleted ones too
	blocks    map[uint64]bool // objects with records that are not deleted
	states    map[*state]bool // handed out, neither released nor abandoned
	doomed    map[uint64]bool // objects to delete once no state has them
	stored    *state          // the one released last, or what this machine was restored from
	forgetful bool            // mutant: snapshots lose the window
}

// machineEvents is who is told what a machine does.
type machineEvents interface {
	applied(m *machine, index uint64, data []byte, c *command, r result)
	lead(m *machine, term uint64, ready bool)
	restored(m *machine, index uint64)
}

var (
	_ raft.Snapshotter = (*machine)(nil)
	_ raft.Retainer    = (*machine)(nil)
)

func newMachine(store raft.SnapshotStore, log uint64, events machineEvents) *machine {
	m := &machine{store: store, log: log, events: events}
	m.reset()
	return m
}

func (m *machine) reset() {
	m.applied, m.next = 0, 1
	m.registers = make(map[uint64]uint64)
	m.ids = make(map[publishID]uint64)
	m.blocks = make(map[uint64]bool)
	m.states = make(map[*state]bool)
	m.doomed = make(map[uint64]bool)
	m.records, m.window, m.open, m.stored = nil, nil, nil, nil
}

// Apply implements raft.Machine.
func (m *machine) Apply(index uint64, data []byte) {
	c, parts, err := decode(data)
	if err != nil {
		panic(fmt.Sprintf("BUG: entry %d: %v", index, err))
	}
	if index <= m.applied {
		panic(fmt.Sprintf("BUG: entry %d is applied after entry %d", index, m.applied))
	}
	m.applied = index
	r := m.execute(index, &c, parts)
	m.events.applied(m, index, data, &c, r)
}

func (m *machine) execute(index uint64, c *command, parts []raft.Range) result {
	switch c.kind {
	case opPut:
		was := m.registers[c.key]
		m.registers[c.key] = c.value
		return result{true, was}
	case opCas:
		was := m.registers[c.key]
		if was == c.old {
			m.registers[c.key] = c.value
		}
		return result{was == c.old, was}
	case opGet:
		return result{true, m.registers[c.key]}
	case opDelete:
		return result{ok: m.remove(c.key)}
	}
	id := publishID{c.client, c.id}
	if number, ok := m.ids[id]; ok {
		return result{true, number}
	}
	number := m.next
	for i, data := range c.messages {
		m.add(record{m.next, index, parts[i], checksum32(data)})
	}
	m.ids[id] = number
	m.window = append(m.window, published{id, number})
	if len(m.window) > dedupeWindow {
		delete(m.ids, m.window[0].publishID)
		m.window = m.window[1:]
	}
	return result{true, number}
}

// add appends a message, and stores its block when that is full.
func (m *machine) add(r record) {
	m.records = append(m.records, r)
	m.open = append(m.open, r)
	m.next++
	if len(m.open) < blockRecords {
		return
	}
	key := r.number / blockRecords
	block := encodeRecords(m.open)
	m.open = nil
	// After a restart the object may be there: replacing it, even by the same, is not allowed while a
	// state refers to it.
	if !slices.Contains(m.store.ObjectKeys(m.log), key) {
		m.store.PutObject(m.log, key, block, nil)
	}
	m.blocks[key] = true
	delete(m.doomed, key)
	m.sweep(key)
}

// block returns the key of the object that a message's record belongs to.
func block(number uint64) uint64 { return (number + blockRecords - 1) / blockRecords }

// remove deletes a message.
func (m *machine) remove(number uint64) bool {
	i, ok := m.find(number)
	if !ok {
		return false
	}
	m.records = slices.Delete(m.records, i, i+1)
	m.sweep(block(number))
	return true
}

// sweep deletes the object of a full block that has no record left.
func (m *machine) sweep(key uint64) {
	if !m.blocks[key] {
		return
	}
	if i, _ := m.find((key-1)*blockRecords + 1); i < len(m.records) && m.records[i].number <= key*blockRecords {
		return
	}
	delete(m.blocks, key)
	m.doomed[key] = true
	m.bury()
}

// bury deletes doomed objects that no state refers to.
func (m *machine) bury() {
	for _, key := range slices.Sorted(maps.Keys(m.doomed)) {
		used := m.stored != nil && slices.Contains(m.stored.objects, key)
		for s := range m.states {
			used = used || slices.Contains(s.objects, key)
		}
		if !used {
			delete(m.doomed, key)
			m.store.DeleteObjects(m.log, key)
		}
	}
}

// find returns the place of a message, or where it would be.
func (m *machine) find(number uint64) (int, bool) {
	return slices.BinarySearchFunc(m.records, number, func(r record, n uint64) int {
		return compare(r.number, n)
	})
}

// read returns the bytes of a message from the log.
func (m *machine) read(r *record) ([]byte, error) {
	data := make([]byte, r.part.Len)
	if err := m.store.ReadAt(m.log, r.index, int(r.part.Off), data); err != nil {
		return nil, fmt.Errorf("message %d: %w", r.number, err)
	}
	return data, nil
}

// Lead implements raft.Machine.
func (m *machine) Lead(term uint64, ready bool) { m.events.lead(m, term, ready) }

// digest is the same for equal states, and most likely for those only.
func (m *machine) digest() uint64 {
	sum := mix(m.next, 1)
	for key, value := range m.registers {
		sum += mix(key, value, 2)
	}
	for i := range m.records {
		r := &m.records[i]
		sum += mix(r.number, r.index, uint64(r.part.Off), uint64(r.part.Len), uint64(r.sum))
	}
	for i, p := range m.window {
		sum += mix(p.client, p.id, p.number, uint64(i), 3)
	}
	for key := range m.blocks {
		sum += mix(key, 4)
	}
	return sum
}

// Live implements raft.Retainer.
func (m *machine) Live(lo, hi uint64, yield func(uint64, []raft.Range) bool) error {
	i, _ := slices.BinarySearchFunc(m.records, lo, func(r record, n uint64) int { return compare(r.index, n) })
	for i < len(m.records) && m.records[i].index < hi {
		index := m.records[i].index
		var parts []raft.Range
		for ; i < len(m.records) && m.records[i].index == index; i++ {
			parts = append(parts, m.records[i].part)
		}
		if !yield(index, parts) {
			return nil
		}
	}
	return nil
}

// LiveBytes implements raft.Retainer.
func (m *machine) LiveBytes(lo, hi uint64) int64 {
	sum := int64(0)
	m.Live(lo, hi, func(_ uint64, parts []raft.Range) bool {
		for _, p := range parts {
			sum += int64(p.Len)
		}
		return true
	})
	return sum
}

// state is a captured state of a machine.
type state struct {
	machine *machine
	bytes   []byte
	objects []uint64
}

// Snapshot implements raft.Snapshotter.
func (m *machine) Snapshot() (raft.State, error) {
	s := &state{machine: m, objects: slices.Sorted(maps.Keys(m.blocks))}
	put := func(n uint64) { s.bytes = binary.LittleEndian.AppendUint64(s.bytes, n) }
	put(m.next)
	put(uint64(len(m.registers)))
	for _, key := range slices.Sorted(maps.Keys(m.registers)) {
		put(key)
		put(m.registers[key])
	}
	window := m.window
	if m.forgetful {
		window = nil
	}
	put(uint64(len(window)))
	for _, p := range window {
		put(p.client)
		put(p.id)
		put(p.number)
	}
	put(uint64(len(s.objects)))
	for _, key := range s.objects {
		put(key)
	}
	put(uint64(len(m.open)))
	s.bytes = append(s.bytes, encodeRecords(m.open)...)
	put(uint64(len(m.records)))
	for i := range m.records {
		put(m.records[i].number)
	}
	m.states[s] = true
	return s, nil
}

// WriteTo implements io.WriterTo.
func (s *state) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s.bytes)
	return int64(n), err
}

// Objects implements raft.State.
func (s *state) Objects() []uint64 { return s.objects }

// Release implements raft.State.
func (s *state) Release() {
	s.end()
	s.machine.stored = s
	s.machine.bury()
}

// Abandon implements raft.State.
func (s *state) Abandon() {
	s.end()
	s.machine.bury()
}

func (s *state) end() {
	if !s.machine.states[s] {
		panic("BUG: a state is ended twice")
	}
	delete(s.machine.states, s)
}

// Restore implements raft.Snapshotter.
func (m *machine) Restore(index uint64, from io.Reader) error {
	data, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	states := m.states
	m.reset()
	m.states = states // those are still to be ended
	m.applied = index
	short := false
	take := func() uint64 {
		if len(data) < 8 {
			short = true
			return 0
		}
		n := binary.LittleEndian.Uint64(data)
		data = data[8:]
		return n
	}
	m.next = take()
	for range take() {
		key := take()
		m.registers[key] = take()
	}
	for range take() {
		p := published{publishID{take(), take()}, take()}
		m.window = append(m.window, p)
		m.ids[p.publishID] = p.number
	}
	all := make(map[uint64]record)
	restored := &state{}
	for range take() {
		key := take()
		block, err := m.store.Object(m.log, key)
		if err != nil {
			return fmt.Errorf("object %d of a state: %w", key, err)
		}
		records, err := decodeRecords(block, blockRecords)
		if err != nil {
			return fmt.Errorf("object %d of a state: %w", key, err)
		}
		for _, r := range records {
			all[r.number] = r
		}
		m.blocks[key] = true
		restored.objects = append(restored.objects, key)
	}
	open := take()
	if uint64(len(data)) < open*recordBytes {
		return errors.New("state is cut")
	}
	m.open, err = decodeRecords(data[:open*recordBytes], int(open))
	if err != nil {
		return err
	}
	data = data[open*recordBytes:]
	for _, r := range m.open {
		all[r.number] = r
	}
	for range take() {
		r, ok := all[take()]
		if !ok {
			return errors.New("state names a message that none of its objects has")
		}
		m.records = append(m.records, r)
	}
	if short || len(data) > 0 {
		return errors.New("state has not its length")
	}
	m.stored = restored
	m.events.restored(m, index)
	return nil
}

const recordBytes = 28

func encodeRecords(records []record) []byte {
	b := make([]byte, 0, len(records)*recordBytes)
	for _, r := range records {
		b = binary.LittleEndian.AppendUint64(b, r.number)
		b = binary.LittleEndian.AppendUint64(b, r.index)
		b = binary.LittleEndian.AppendUint32(b, r.part.Off)
		b = binary.LittleEndian.AppendUint32(b, r.part.Len)
		b = binary.LittleEndian.AppendUint32(b, r.sum)
	}
	return b
}

func decodeRecords(b []byte, count int) ([]record, error) {
	if len(b) != count*recordBytes {
		return nil, fmt.Errorf("%d bytes in place of %d records", len(b), count)
	}
	records := make([]record, count)
	for i := range records {
		p := b[i*recordBytes:]
		records[i] = record{
			number: binary.LittleEndian.Uint64(p), index: binary.LittleEndian.Uint64(p[8:]),
			part: raft.Range{Off: binary.LittleEndian.Uint32(p[16:]), Len: binary.LittleEndian.Uint32(p[20:])},
			sum:  binary.LittleEndian.Uint32(p[24:]),
		}
	}
	return records, nil
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum32(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func checksum(b []byte) uint64 { return uint64(checksum32(b)) }

// mix hashes numbers.
func mix(numbers ...uint64) uint64 {
	h := uint64(0x9e3779b97f4a7c15)
	for _, n := range numbers {
		h ^= n
		h *= 0xbf58476d1ce4e5b9
		h ^= h >> 29
		h *= 0x94d049bb133111eb
		h ^= h >> 32
	}
	return h
}
