package node

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"path/filepath"
	"time"

	"millrace/appliance/node/logstore"
	"millrace/appliance/server/broker"
	"millrace/appliance/server/jetstream"
	"millrace/raft"
	"millrace/raft/transport"
	"millrace/storage/catalog"
	"millrace/storage/journal"
	"millrace/storage/vfs"
)

// The parts know only the interfaces they declare; these are the implementations.
var (
	_ jetstream.Log    = repairedLog{}
	_ jetstream.Groups = (*groups)(nil)
	_ jetstream.Bus    = bus{}
)

// store is everything durable of a node: catalog, journal, and the raft host over it.
type store struct {
	catalog *catalog.Catalog
	journal *journal.Log
	host    *raft.Host // nil before startHost
	groups  *groups
	damage  damageQueue

	free func(dir string) (int64, error) // bytes that may still be written in a folder
	dirs []string                        // of the log
}

// room returns how many bytes the log has or may get on its disks, false if that is not known.
func (s *store) room() (bytes int64, known bool) {
	bytes = s.journal.Stats().Bytes
	for _, dir := range s.dirs {
		n, err := s.free(dir)
		if err != nil {
			return 0, false
		}
		bytes += n
	}
	return bytes, true
}

// openStore opens or makes the store over a catalog, which it closes; nil: it opens that too. fatal is called
// when the store cannot be written any more.
func openStore(c *catalog.Catalog, js JetStream, log *slog.Logger, fatal func(error)) (*store, error) {
	s := &store{catalog: c, free: vfs.FreeBytes, damage: newDamageQueue()}
	err := s.open(js, log, fatal)
	switch {
	case errors.Is(err, journal.ErrWrongKey):
		err = fmt.Errorf("%w; set jetstream.key to the key it was written with, or that as jetstream.prev_key", err)
	case errors.Is(err, journal.ErrNoKey):
		err = fmt.Errorf("%w; set jetstream.key", err)
	case errors.As(err, new(*journal.CorruptError)):
		err = fmt.Errorf("%w; this node cannot know what it has promised, and must not take part with this store any more: move %s "+
			"aside and start with an empty one, and it gets from the other nodes what they have; what only this node has is in the old one",
			err, js.StoreDir)
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
	if s.catalog == nil {
		if s.catalog, err = catalog.Open(filepath.Join(dir, "catalog.db")); err != nil {
			return err
		}
	}
	logDir := filepath.Join(dir, "journal")
	logFS, err := s.logFS(dir, logDir, js.ExtraDirs)
	if err != nil {
		return err
	}
	s.dirs = append([]string{dir}, js.ExtraDirs...)
	s.journal, err = journal.Open(journal.Config{
		FS: logFS, Dir: logDir, Catalog: s.catalog, Logger: log, OnFatal: fatal,
		Key: key, PrevKey: prevKey, Keys: s.catalog, ScrubInterval: js.ScrubInterval, OnDamage: s.damage.add,
	})
	return err
}

// logFS is the file system of the log: with further folders it is spread over those. They must be there, since one
// that is made where a disk should have been mounted would be on another disk.
func (s *store) logFS(dir, logDir string, extra []string) (vfs.FS, error) {
	dirs := []string{logDir}
	for _, d := range extra {
		if _, err := (vfs.OS{}).List(d); err != nil {
			return nil, fmt.Errorf("extra_dirs: %w; is its disk mounted?", err)
		}
		dirs = append(dirs, filepath.Join(d, "journal"))
	}
	if err := checkExtraDirs(dir, extra, fmt.Sprintf("%016x", s.catalog.NodeID())); err != nil {
		return nil, err
	}
	if len(extra) == 0 {
		return vfs.OS{}, nil
	}
	return vfs.NewSpread(vfs.OS{}, s.free, dirs...)
}

// The times of the raft host: streams of a node that has died have other leaders within a second. A node that
// stands still for longer than deadAfter loses its leaders for no good reason, which costs elections and
// nothing else; one that is slow again and again gets up to twice the time. promiseTime is the same on all nodes of a cluster, of whatever version.
const (
	tick           = 50 * time.Millisecond
	beat           = 100 * time.Millisecond
	suspectAfter   = 350 * time.Millisecond
	promiseTime    = 600 * time.Millisecond
	deadAfter      = 650 * time.Millisecond
	failoverJitter = 150 * time.Millisecond
)

// stateFormat is one number for every build: two of them may encode a machine's state differently while a cluster is
// updated.
func stateFormat() uint64 {
	h := fnv.New64a()
	h.Write([]byte(Version()))
	return h.Sum64()
}

// startHost starts the raft host. t reaches the other nodes; nil: there are none. onPeer is told of their states.
func (s *store) startHost(t *transport.Transport, onPeer func(node uint64, state raft.PeerState), log *slog.Logger) error {
	var carrier raft.Transport
	if t != nil {
		carrier = t
	}
	s.groups = &groups{journal: s.journal, machines: map[raft.GroupID]jetstream.Machine{}}
	var err error
	s.host, err = raft.Open(raft.Config{
		Node: nodeOf(s.catalog.NodeID()), NodeOf: nodeOf, Transport: carrier,
		Log: logstore.Store{Log: s.journal}, LogFailed: s.journal.Failed(), Logger: log,
		Admit: s.journal.Admit, AdmitControl: s.journal.AdmitControl, OnGroupFailure: s.groups.failed, OnPeer: onPeer,
		TickInterval: tick, BeatInterval: beat, SuspectAfter: suspectAfter, DeadAfter: deadAfter,
		PromiseTime: promiseTime, FailoverJitter: failoverJitter, StateFormat: stateFormat(),
	})
	if err != nil {
		return err
	}
	s.groups.host = s.host
	s.damage.wg.Go(func() { s.damage.run(s.groups, log) })
	if t != nil {
		return t.Start(s.host)
	}
	return nil
}

func (s *store) close() error {
	var errs []error
	s.damage.close()
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

// bus is the subject space of an account as the engine sees it.
type bus struct{ *broker.Account }

// Burst returns a publisher for many messages at once.
func (b bus) Burst() jetstream.Burst { return b.NewPublisher() }

// Borrow returns a publisher for one burst.
func (b bus) Borrow() jetstream.Burst { return b.Account.Borrow() }

// Subscribe calls fn for every message on the publisher's goroutine.
func (b bus) Subscribe(subject, queue string, fn func(jetstream.Msg)) (func(), error) {
	return ending(b.Account.Subscribe(subject, queue, callback(fn)))
}

// SubscribeSoon is Subscribe, but other servers hear of it a moment later.
func (b bus) SubscribeSoon(subject, queue string, fn func(jetstream.Msg)) (func(), error) {
	return ending(b.Account.SubscribeSoon(subject, queue, callback(fn)))
}

// SubscribeEach is Subscribe of what one node is to answer.
func (b bus) SubscribeEach(subject string, fn func(jetstream.Msg) bool) (func(), error) {
	return ending(b.Account.SubscribeEach(subject, func(m *broker.Msg) bool { return fn(msgOf(m)) }))
}

func callback(fn func(jetstream.Msg)) func(*broker.Msg) { return func(m *broker.Msg) { fn(msgOf(m)) } }

func msgOf(m *broker.Msg) jetstream.Msg {
	return jetstream.Msg{Subject: m.Subject, Reply: m.Reply, Header: m.Header, Data: m.Data, Own: m.Own, Last: m.Last}
}

func ending(sub *broker.Sub, err error) (func(), error) {
	if err != nil {
		return nil, err
	}
	return sub.Unsubscribe, nil
}
