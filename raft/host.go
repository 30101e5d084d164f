package raft

import (
	"fmt"
	"sync"

	"millrace/raft/core"
)

// Host runs the raft groups of one node over one LogStore.
type Host struct {
	cfg     Config
	workers []*worker
	wg      sync.WaitGroup
	closing chan struct{}

	mu       sync.Mutex // taken with no other lock held
	closed   bool
	groups   map[GroupID]*Group
	removing map[GroupID]struct{}
}

// Open starts a host without groups.
func Open(cfg Config) (*Host, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	h := &Host{
		cfg:      cfg.withDefaults(),
		closing:  make(chan struct{}),
		groups:   make(map[GroupID]*Group),
		removing: make(map[GroupID]struct{}),
	}
	for range h.cfg.Workers {
		w := newWorker()
		h.workers = append(h.workers, w)
		h.wg.Go(w.loop)
	}
	return h, nil
}

// Start runs this node's replica of a group. The voters are those with which the group's log began:
// this node only, as there are no connections to other nodes. The stored log is read and applied by
// the group's worker, so Start returns before that; the machine is told Lead(term, true) after.
//
// It returns ErrGroupExists, ErrStopped after Close, and errors that name what is wrong with the
// stored log.
func (h *Host) Start(id GroupID, voters []uint64, m Machine) (*Group, error) {
	switch {
	case m == nil:
		return nil, fmt.Errorf("raft: start group %d: no machine", id)
	case len(voters) != 1 || voters[0] != h.cfg.Node:
		return nil, fmt.Errorf("raft: start group %d: voters %v: only node %d itself is possible",
			id, voters, h.cfg.Node)
	}
	g := &Group{
		id:      id,
		cfg:     &h.cfg,
		worker:  h.workers[uint64(id)%uint64(len(h.workers))],
		machine: m,
		forget:  h.forget,
	}
	g.done = g.onPersisted
	if err := h.reserve(g); err != nil {
		return nil, err
	}
	err := g.guard(func() (err error) {
		g.core, err = core.New(core.Config{
			Group:         uint64(id),
			Replica:       h.cfg.Node,
			Voters:        voters,
			Log:           h.cfg.Log,
			MaxApplyBytes: uint64(h.cfg.MaxApplyBytes),
			Logger:        h.cfg.Logger,
		})
		return err
	})
	if err != nil {
		g.Stop()
		return nil, fmt.Errorf("raft: start: %w", err)
	}
	g.start()
	return g, nil
}

// reserve enters the group, so that no other Start has the same id.
func (h *Host) reserve(g *Group) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrStopped
	}
	if _, ok := h.removing[g.id]; ok {
		return fmt.Errorf("%w: group %d is being removed", ErrGroupExists, g.id)
	}
	if h.groups[g.id] != nil {
		return fmt.Errorf("%w: group %d", ErrGroupExists, g.id)
	}
	h.groups[g.id] = g
	return nil
}

// Remove stops the group if it runs, and deletes its log. It returns when that is durable; the id
// must not be used again. When the host is closed or the store has failed it returns an error that
// wraps ErrStopped or ErrLogFailed, and a restart may find the log. It must not be called by a
// Machine.
func (h *Host) Remove(id GroupID) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return ErrStopped
	}
	if _, ok := h.removing[id]; ok {
		h.mu.Unlock()
		return fmt.Errorf("raft: remove group %d: %w", id, errRemoving)
	}
	h.removing[id] = struct{}{}
	g := h.groups[id]
	h.mu.Unlock()

	if g != nil {
		g.Stop()
	}
	dropped := make(chan struct{})
	h.cfg.Log.Drop(uint64(id), func() { close(dropped) })
	select {
	case <-dropped:
	case <-h.cfg.LogFailed:
		return fmt.Errorf("raft: remove group %d: %w before the removal was durable", id, ErrLogFailed)
	case <-h.closing:
		return fmt.Errorf("raft: remove group %d: %w before the removal was durable", id, ErrStopped)
	}
	h.mu.Lock()
	delete(h.removing, id)
	h.mu.Unlock()
	return nil
}

// forget is called when a group was stopped.
func (h *Host) forget(g *Group) {
	h.mu.Lock()
	if h.groups[g.id] == g { // else it was started anew
		delete(h.groups, g.id)
	}
	h.mu.Unlock()
}

// Close stops all groups and waits until nothing of the host runs. The LogStore stays open.
func (h *Host) Close() error {
	h.mu.Lock()
	first := !h.closed
	h.closed = true
	groups := make([]*Group, 0, len(h.groups))
	for _, g := range h.groups {
		groups = append(groups, g)
	}
	h.mu.Unlock()
	if first {
		close(h.closing)
		for _, g := range groups {
			g.Stop()
		}
		for _, w := range h.workers {
			w.close()
		}
	}
	h.wg.Wait()
	return nil
}
