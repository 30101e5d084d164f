package jetstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/delivery"
	"millrace/appliance/server/jetstream/stream"
	"millrace/appliance/server/subject"
)

// disk stands for journal and raft host: logs that survive the engines over them. Entries commit when
// the test says so, or at once.
type disk struct {
	mu     sync.Mutex
	logs   map[uint64][][]byte // by group; index 1 first
	first  map[uint64]uint64   // lowest index that was not released
	groups map[uint64]*diskGroup
	states map[uint64]stored            // snapshots
	blobs  map[uint64]map[uint64][]byte // objects
	hold   bool                         // proposals wait for commit
	refuse error                        // proposals are refused
	noRoom bool                         // no other group is started
	takes  []uint64                     // groups that take them nevertheless
	lease  error                        // of what may be read
}

// stored is a snapshot of a group's machine.
type stored struct {
	index uint64
	state []byte
}

type diskGroup struct {
	disk    *disk
	id      uint64
	machine Machine
	pending [][]byte
	busy    bool // someone commits; apply is called by one goroutine at a time
	stopped bool
	asked   int // calls of Snapshot
}

func newDisk() *disk {
	return &disk{
		logs: map[uint64][][]byte{}, first: map[uint64]uint64{}, groups: map[uint64]*diskGroup{},
		states: map[uint64]stored{}, blobs: map[uint64]map[uint64][]byte{},
	}
}

func (d *disk) Start(spec GroupSpec, m Machine) (Group, error) {
	id := spec.Log
	d.mu.Lock()
	if d.noRoom {
		d.mu.Unlock()
		return nil, fmt.Errorf("start group %d: %w", spec.ID, ErrFull)
	}
	g := &diskGroup{disk: d, id: id, machine: m}
	d.groups[id] = g
	log, first := slices.Clone(d.logs[id]), max(1, d.first[id])
	snapshot, ok := d.states[id]
	d.mu.Unlock()
	if ok {
		if err := m.(Snapshotter).Restore(snapshot.index, bytes.NewReader(snapshot.state)); err != nil {
			return nil, err
		}
		first = snapshot.index + 1
	}
	for i := first - 1; i < uint64(len(log)); i++ {
		m.Apply(i+1, log[i])
	}
	m.Lead(diskTerm, true)
	return g, nil
}

// diskTerm is the term in which every group of a disk is led, by its only replica.
const diskTerm = 1

func (d *disk) Await(done <-chan struct{}) error {
	<-done
	return nil
}

// snapshot stores the state of a group's machine, as the raft host does when a log has grown.
func (d *disk) snapshot(t *testing.T, id uint64) {
	t.Helper()
	d.mu.Lock()
	g, index := d.groups[id], uint64(len(d.logs[id]))
	d.mu.Unlock()
	state, err := g.machine.(Snapshotter).Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := state.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	for _, key := range state.Objects() {
		if _, err := d.Object(id, key); err != nil {
			t.Fatal(err)
		}
	}
	d.mu.Lock()
	d.states[id] = stored{index, b.Bytes()}
	d.mu.Unlock()
	state.Release()
}

// forget drops the entries before a group's snapshot, but for what its machine needs of them.
func (d *disk) forget(t *testing.T, id uint64) {
	t.Helper()
	d.mu.Lock()
	m, upTo := d.groups[id].machine.(Snapshotter), d.states[id].index
	d.mu.Unlock()
	kept := map[uint64][]stream.Range{}
	err := m.Live(1, upTo+1, func(index uint64, parts []stream.Range) bool {
		kept[index] = slices.Clone(parts)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.logs[id][:upTo] {
		entry := make([]byte, len(d.logs[id][i]))
		for _, p := range kept[uint64(i+1)] {
			copy(entry[p.Off:p.Off+p.Len], d.logs[id][i][p.Off:])
		}
		d.logs[id][i] = entry
	}
}

// Stat returns the size of an entry. All are of one term.
func (d *disk) Stat(group, index uint64) (term uint64, size uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	log := d.logs[group]
	if index == 0 || index > uint64(len(log)) {
		return 0, 0, fmt.Errorf("no entry %d of group %d", index, group)
	}
	return 1, uint32(len(log[index-1])), nil
}

func (d *disk) PutObject(group, key uint64, data []byte, done func()) {
	d.mu.Lock()
	if d.blobs[group] == nil {
		d.blobs[group] = map[uint64][]byte{}
	}
	d.blobs[group][key] = data
	d.mu.Unlock()
	if done != nil {
		done()
	}
}

func (d *disk) Object(group, key uint64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.blobs[group][key]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("no object %d of group %d", key, group)
}

func (d *disk) ObjectKeys(group uint64) []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.blobs[group]))
}

func (d *disk) DeleteObjects(group uint64, keys ...uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range keys {
		delete(d.blobs[group], key)
	}
}

func (d *disk) Logs() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.logs))
}

func (d *disk) Remove(spec GroupSpec) error {
	id := spec.Log
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.logs, id)
	delete(d.groups, id)
	delete(d.states, id)
	delete(d.blobs, id)
	return nil
}

func (g *diskGroup) Propose(_ uint64, entry []byte) error {
	g.disk.mu.Lock()
	switch {
	case g.stopped:
		g.disk.mu.Unlock()
		return errors.New("stopped")
	case g.disk.refuse != nil && !slices.Contains(g.disk.takes, g.id):
		defer g.disk.mu.Unlock()
		return g.disk.refuse
	}
	g.pending = append(g.pending, entry)
	hold := g.disk.hold
	g.disk.mu.Unlock()
	if !hold {
		g.commit()
	}
	return nil
}

func (g *diskGroup) ProposeControl(term uint64, entry []byte) error { return g.Propose(term, entry) }

func (g *diskGroup) LeaseRead(done func(error)) {
	g.disk.mu.Lock()
	err := g.disk.lease
	g.disk.mu.Unlock()
	done(err)
}

func (g *diskGroup) Leader() (replica, term uint64) { return 1, diskTerm }

func (g *diskGroup) Campaign() {}

func (g *diskGroup) TransferLeader(uint64) {}

func (g *diskGroup) ChangeMembers(_ Change, done func(error)) {
	done(errors.New("one replica for ever"))
}

func (g *diskGroup) Status(context.Context) (GroupStatus, error) {
	return GroupStatus{Term: diskTerm, Lead: 1, Voters: []uint64{1}}, nil
}

// commit makes everything proposed durable and applies it.
func (g *diskGroup) commit() {
	for first := true; ; first = false {
		g.disk.mu.Lock()
		if first && g.busy || len(g.pending) == 0 || g.stopped {
			g.busy = g.busy && first
			g.disk.mu.Unlock()
			return
		}
		g.busy = true
		entry := g.pending[0]
		g.pending = g.pending[1:]
		g.disk.logs[g.id] = append(g.disk.logs[g.id], slices.Clone(entry))
		index := uint64(len(g.disk.logs[g.id]))
		g.disk.mu.Unlock()
		g.machine.Apply(index, entry)
	}
}

// Snapshot counts what was asked for.
func (g *diskGroup) Snapshot() { g.asked++ }

func (g *diskGroup) Stop() {
	g.disk.mu.Lock()
	defer g.disk.mu.Unlock()
	g.stopped = true
}

// holdBack makes proposals wait; release commits what waits.
func (d *disk) holdBack() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold = true
}

func (d *disk) release() {
	d.mu.Lock()
	d.hold = false
	all := make([]*diskGroup, 0, len(d.groups))
	for _, g := range d.groups {
		all = append(all, g)
	}
	d.mu.Unlock()
	for _, g := range all {
		g.commit()
	}
}

func (d *disk) ReadAt(group, index uint64, off int, p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	log := d.logs[group]
	if index == 0 || index > uint64(len(log)) || off+len(p) > len(log[index-1]) {
		return fmt.Errorf("no entry %d of group %d", index, group)
	}
	copy(p, log[index-1][off:])
	return nil
}

func (d *disk) Release(group, upTo uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.first[group] = upTo + 1
}

func (d *disk) Place(group, index uint64) string { return fmt.Sprintf("log %d:%d", group, index) }

// space is a bus whose subscribers are called on the publisher's goroutine.
type space struct {
	mu   sync.Mutex
	next int
	subs map[int]spaceSub

	watchers sync.WaitGroup
}

type spaceSub struct {
	filter string
	fn     func(Msg)
}

func (b *space) Subscribe(filter, _ string, fn func(Msg)) (func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	id := b.next
	b.subs[id] = spaceSub{filter, fn}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subs, id)
	}, nil
}

func (b *space) receivers(subj string) []func(Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var fns []func(Msg)
	for _, s := range b.subs {
		if subject.Match(s.filter, subj) {
			fns = append(fns, s.fn)
		}
	}
	return fns
}

func (b *space) Publish(subj, reply string, header, data []byte) int {
	return b.PublishAs(subj, subj, reply, header, data)
}

func (b *space) PublishAs(deliver, subj, reply string, header, data []byte) int {
	fns := b.receivers(deliver)
	for _, fn := range fns {
		fn(Msg{Subject: []byte(subj), Reply: []byte(reply), Header: slices.Clone(header), Data: slices.Clone(data)})
	}
	return len(fns)
}

func (b *space) SubscribeEach(filter string, fn func(Msg) bool) (func(), error) {
	return b.Subscribe(filter, "", func(m Msg) { fn(m) })
}

func (b *space) Burst() Burst { return b }

func (b *space) Borrow() Burst { return b }

func (b *space) Return() {}

func (b *space) Push() {}

func (b *space) Flush() {}

func (b *space) SubscribeSoon(filter, queue string, fn func(Msg)) (func(), error) {
	return b.Subscribe(filter, queue, fn)
}

func (b *space) HasInterest(subj string) bool { return len(b.receivers(subj)) > 0 }

// WatchInterest tells what it finds, and looks again while it is not cancelled.
func (b *space) WatchInterest(subj, _ string, fn func(bool)) func() {
	ended := make(chan struct{})
	last := b.HasInterest(subj)
	fn(last)
	b.watchers.Go(func() {
		look := time.NewTicker(time.Millisecond)
		defer look.Stop()
		for {
			select {
			case <-look.C:
				if now := b.HasInterest(subj); now != last {
					last = now
					fn(now)
				}
			case <-ended:
				return
			}
		}
	})
	return func() { close(ended) }
}

// server is an engine over a disk with one account.
type server struct {
	t      *testing.T
	disk   *disk
	bus    *space
	engine *Engine
}

// testNode is the raw id of the one node.
const testNode = 7 << 20

func newServer(t *testing.T, d *disk) *server {
	t.Helper()
	return newServerWith(t, d, func(*Config) {})
}

func newServerWith(t *testing.T, d *disk, change func(*Config)) *server {
	t.Helper()
	s := &server{t: t, disk: d, bus: &space{subs: map[int]spaceSub{}}}
	cfg := Config{
		Groups: d, Log: d, Bus: func(string) Bus { return s.bus }, Logger: slog.New(slog.DiscardHandler),
		System: &space{subs: map[int]spaceSub{}}, Node: testNode | (1<<20 - 1), Replica: testNode, Founders: []uint64{testNode}, Name: "n1",
		Version: "2.15.0", Accounts: map[string]api.AccountLimits{"A": api.Unlimited()},
	}
	change(&cfg)
	var err error
	s.engine, err = Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// restart is a new engine over what is durable.
func (s *server) restart() *server {
	s.t.Helper()
	s.engine.Close()
	return newServer(s.t, s.disk)
}

// call makes an API request; the response's error, if any, must be want.
func (s *server) call(call string, body any, want *api.Error) map[string]any {
	s.t.Helper()
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			s.t.Fatal(err)
		}
	}
	response, err := s.engine.Local("A").Request(s.t.Context(), call, raw)
	if err != nil {
		s.t.Fatal(err)
	}
	var failure api.Response
	var out map[string]any
	if err := errors.Join(json.Unmarshal(response, &failure), json.Unmarshal(response, &out)); err != nil {
		s.t.Fatal(err)
	}
	if (failure.Error == nil) != (want == nil) || want != nil && failure.Error.ErrCode != want.ErrCode {
		s.t.Fatalf("%s: error %v, want %v", call, failure.Error, want)
	}
	return out
}

// inbox collects what is published to a subject.
type inbox struct {
	mu   sync.Mutex
	msgs []string
}

func (s *server) subscribe(filter string) *inbox {
	in := &inbox{}
	s.bus.Subscribe(filter, "", func(m Msg) {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.msgs = append(in.msgs, string(m.Data))
	})
	return in
}

func (in *inbox) take() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	msgs := in.msgs
	in.msgs = nil
	return msgs
}

func settlements(list []delivery.Delivery) []delivery.Settlement {
	var out []delivery.Settlement
	for _, d := range list {
		out = append(out, delivery.Settlement{Seq: d.Seq, Kind: delivery.SettleAck})
	}
	return out
}
