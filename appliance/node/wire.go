package node

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"millrace/appliance/node/logstore"
	"millrace/appliance/server/broker"
	"millrace/appliance/server/jetstream"
	"millrace/raft"
	"millrace/storage/catalog"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// The parts know only the interfaces they declare; these are the implementations.
var (
	_ jetstream.Log    = (*journal.Log)(nil)
	_ jetstream.Groups = (*groups)(nil)
	_ jetstream.Bus    = bus{}
)

// store is everything durable of a node: catalog, journal, and the raft host over it.
type store struct {
	catalog *catalog.Catalog
	journal *journal.Log
	host    *raft.Host
	groups  *groups
}

// openStore opens or makes the store. fatal is called when it cannot be written any more.
func openStore(js JetStream, log *slog.Logger, fatal func(error)) (*store, error) {
	s := &store{}
	err := s.open(js, log, fatal)
	switch {
	case errors.Is(err, journal.ErrWrongKey):
		err = fmt.Errorf("%w; set jetstream.key to the key it was written with, or that as jetstream.prev_key", err)
	case errors.Is(err, journal.ErrNoKey):
		err = fmt.Errorf("%w; set jetstream.key", err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", js.StoreDir, err), s.close())
	}
	return s, nil
}

// nodeKey makes the journal's key of what the configuration says, nil of nothing.
func nodeKey(secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	return hkdf.Key(sha256.New, []byte(secret), nil, "millrace node key", journal.KeyBytes)
}

func (s *store) open(js JetStream, log *slog.Logger, fatal func(error)) error {
	fs, dir := vfs.OS{}, js.StoreDir
	if err := fs.MkdirAll(dir); err != nil {
		return err
	}
	key, err := nodeKey(js.Key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	prevKey, err := nodeKey(js.PrevKey)
	if err != nil {
		return fmt.Errorf("prev_key: %w", err)
	}
	if s.catalog, err = catalog.Open(filepath.Join(dir, "catalog.db")); err != nil {
		return err
	}
	s.journal, err = journal.Open(journal.Config{
		FS: fs, Dir: filepath.Join(dir, "journal"), Catalog: s.catalog, Logger: log, OnFatal: fatal,
		Key: key, PrevKey: prevKey, Keys: s.catalog,
	})
	if err != nil {
		return err
	}
	s.groups = &groups{
		journal: s.journal, node: s.catalog.NodeID(), fatal: fatal, starting: map[uint64]chan error{},
	}
	s.host, err = raft.Open(raft.Config{
		Node: s.groups.node, Log: logstore.Store{Log: s.journal}, LogFailed: s.journal.Failed(), Logger: log,
		Admit: s.journal.Admit, AdmitControl: s.journal.AdmitControl, OnGroupFailure: s.groups.failed,
	})
	s.groups.host = s.host
	return err
}

func (s *store) close() error {
	var errs []error
	if s.host != nil {
		errs = append(errs, s.host.Close())
	}
	if s.journal != nil {
		errs = append(errs, s.journal.Close())
	}
	if s.catalog != nil {
		errs = append(errs, s.catalog.Close())
	}
	return errors.Join(errs...)
}

// groups starts groups of this node alone.
type groups struct {
	host    *raft.Host
	journal *journal.Log
	node    uint64
	fatal   func(error)

	mu       sync.Mutex
	starting map[uint64]chan error // where the failure of a group that does not lead yet goes
}

// stallPoll is how often a start looks whether the journal can write, and stallPatience how many
// looks in a row must say that it cannot before the start is given up.
const (
	stallPoll     = time.Second
	stallPatience = 3
)

// Start replays a group's log and returns when the group leads. It gives up when the journal has
// failed, or has no room left for the writes that this takes.
func (g *groups) Start(id uint64, jm jetstream.Machine) (jetstream.Group, error) {
	if err := g.journal.AdmitStart(); err != nil && !errors.Is(err, journal.ErrBusy) {
		return nil, fmt.Errorf("start group %d: %w", id, err)
	}
	m, ready := newMachine(jm)
	failed := make(chan error, 1)
	g.mu.Lock()
	g.starting[id] = failed
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.starting, id)
		g.mu.Unlock()
	}()
	group, err := g.host.Start(raft.GroupSpec{ID: raft.GroupID(id), Voters: []uint64{g.node}}, m)
	if err != nil {
		return nil, err
	}
	if err := g.await(ready, failed); err != nil {
		group.Stop()
		return nil, fmt.Errorf("start group %d: %w", id, err)
	}
	return group, nil
}

// await waits until a group is ready, has failed, or is not to become ready.
func (g *groups) await(ready <-chan struct{}, failed <-chan error) error {
	poll := time.NewTicker(stallPoll)
	defer poll.Stop()
	for stalled := 0; ; {
		select {
		case <-ready:
			return nil
		case err := <-failed:
			return err
		case <-g.journal.Failed():
			return g.journal.Err()
		case <-poll.C:
			err := g.journal.Stalled()
			if err == nil {
				stalled = 0
			} else if stalled++; stalled == stallPatience {
				return err
			}
		}
	}
}

// failed is told of a group that cannot go on. One that is being started is its starter's concern; a
// running one ends the process, whose next start reads the log again.
func (g *groups) failed(id raft.GroupID, err error) {
	g.mu.Lock()
	starter := g.starting[uint64(id)]
	g.mu.Unlock()
	if starter != nil {
		starter <- err
		return
	}
	g.fatal(fmt.Errorf("raft group %d: %w", id, err))
}

// List returns the groups that have a log.
func (g *groups) List() []uint64 { return g.journal.Groups() }

// Remove deletes the log of a stopped group.
func (g *groups) Remove(id uint64) error { return g.host.Remove(raft.GroupSpec{ID: raft.GroupID(id)}) }

// bus is the subject space of an account as the engine sees it.
type bus struct{ *broker.Account }

// Burst returns a publisher for many messages at once.
func (b bus) Burst() jetstream.Burst { return b.NewPublisher() }

// Subscribe calls fn for every message on the publisher's goroutine.
func (b bus) Subscribe(subject, queue string, fn func(jetstream.Msg)) (func(), error) {
	sub, err := b.Account.Subscribe(subject, queue, func(m *broker.Msg) {
		fn(jetstream.Msg{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data})
	})
	if err != nil {
		return nil, err
	}
	return sub.Unsubscribe, nil
}
