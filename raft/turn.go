package raft

import (
	"fmt"
	"runtime/debug"

	"millrace/raft/core"
)

// maxReadies is how many pieces of work of one group are done before others have their turn.
const maxReadies = 4

// The methods in this file run the core; see invariant 1 of Group.

// guard turns a panic into the group's failure, so that it does not end the node.
func (g *Group) guard(f func() error) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
			return
		case error:
			err = fmt.Errorf("raft: group %d: panic: %w", g.id, r)
		default:
			err = fmt.Errorf("raft: group %d: panic: %v", g.id, r)
		}
		g.cfg.Logger.Error("panic in raft group", "group", uint64(g.id), "stack", string(debug.Stack()))
	}()
	return f()
}

// proposeNow proposes to a core that has nothing outstanding, on the goroutine of the proposer.
func (g *Group) proposeNow(data []byte) error {
	if err := g.core.Propose([][]byte{data}); err != nil {
		return fmt.Errorf("raft: group %d: %w", g.id, err)
	}
	var rd core.Ready
	g.core.Ready(&rd)
	if len(rd.Committed) > 0 || !rd.Leads {
		panic("BUG: a proposal to an idle core did more than append")
	}
	g.write(&rd.Append)
	return nil
}

// turn gives the core what arrived and does the work that it hands out. again is true when there
// may be more of it.
func (g *Group) turn(rd *core.Ready, persisted int, proposals [][]byte) (again bool, err error) {
	if persisted > 0 {
		g.inflight -= persisted
		g.core.Persisted(persisted)
	}
	if len(proposals) > 0 && g.leadTerm != 0 {
		if err := g.core.Propose(proposals); err != nil {
			return false, fmt.Errorf("raft: group %d: %w", g.id, err)
		}
	}
	for range maxReadies {
		if !g.core.Ready(rd) {
			if g.campaigns {
				return false, nil
			}
			// The stored log is applied as far as it is known to be committed. The only voter need
			// not wait for anyone.
			g.campaigns = true
			if err := g.core.Campaign(); err != nil {
				return false, fmt.Errorf("raft: group %d: campaign: %w", g.id, err)
			}
			continue
		}
		g.role(rd)
		g.write(&rd.Append)
		if len(rd.Committed) == 0 {
			continue
		}
		done, err := g.apply(rd.Committed)
		if !done || err != nil {
			return false, err
		}
		g.core.Applied()
	}
	return true, nil
}

// write hands a write to the store.
func (g *Group) write(a *core.Append) {
	if a.Empty() {
		return
	}
	g.inflight++
	g.cfg.Log.Append(Write{
		Group: uint64(g.id), Entries: a.Entries, State: a.State, Done: g.done,
	})
}

// role follows gain and loss of leadership. A gain is announced by opened.
func (g *Group) role(rd *core.Ready) {
	term := uint64(0)
	if rd.Leads {
		term = rd.Term
	}
	if term == g.leadTerm {
		return
	}
	lost := g.leadTerm
	g.leadTerm = term
	g.mu.Lock()
	announced := g.ready
	g.ready, g.queue, g.pending = false, nil, 0
	g.mu.Unlock()
	if announced {
		g.machine.Lead(lost, false)
	}
}

// apply hands committed entries to the machine; done is false when the group was stopped meanwhile.
func (g *Group) apply(entries []core.Entry) (done bool, err error) {
	released := 0
	for i := range entries {
		if g.stopping.Load() {
			return false, nil
		}
		e := &entries[i]
		switch {
		case e.Type != core.EntryNormal:
			return false, fmt.Errorf("raft: group %d: entry %d: %w (type %d)",
				g.id, e.Index, errMembership, e.Type)
		case len(e.Data) > 0:
			g.machine.Apply(e.Index, e.Data)
			if e.Term == g.leadTerm {
				released += len(e.Data)
			}
		case e.Term == g.leadTerm:
			g.opened()
		}
	}
	if released > 0 {
		g.mu.Lock()
		g.pending -= int64(released)
		g.mu.Unlock()
	}
	return true, nil
}

// opened is called when the entry that opens this replica's term as a leader is applied, and with it
// everything of earlier terms.
func (g *Group) opened() {
	g.mu.Lock()
	g.ready = true
	g.mu.Unlock()
	g.machine.Lead(g.leadTerm, true)
}
