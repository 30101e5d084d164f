package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// joinSubject is where the leader of the meta group takes nodes into the registry.
const joinSubject = "$MILLRACE.META.JOIN"

const (
	// joinAgain is the time between two requests of a node to be taken in.
	joinAgain = 100 * time.Millisecond
	// joinRefused is that time after a refusal, which somebody has to do something about.
	joinRefused = 5 * time.Second
	// joinWait bounds one request.
	joinWait = 5 * time.Second
)

// joinRequest asks to be taken in.
type joinRequest struct {
	Node meta.Node `json:"node"`
}

// refusal is the answer to a node that is not taken in. Removed tells that it never will be.
type refusal struct {
	Why     string `json:"why"`
	Removed bool   `json:"removed,omitempty"`
}

// joinAnswer is the answer to a joinRequest.
type joinAnswer struct {
	Refused *refusal `json:"refused,omitempty"`
}

// register enters this node in the registry, if it is not there as it is, again and again until it is. Only a
// node that is alone gives up.
func (e *Engine) register() *api.Error {
	for !e.registered() {
		pause := joinAgain
		refused, err := e.askToJoin()
		switch {
		case refused != nil:
			e.members.refused(refused)
			pause = joinRefused
		case err != nil && e.cfg.Cluster == "":
			return err
		}
		if e.registered() {
			break
		}
		select {
		case <-time.After(pause):
		case <-e.ctx.Done():
			return api.ErrClusterNotAvail
		}
	}
	e.members.wakeUp()
	return nil
}

// askToJoin makes one request to be taken in, of this node if it leads the meta group.
func (e *Engine) askToJoin() (*refusal, *api.Error) {
	if e.catalog.leads() {
		answer, err := e.members.takeIn(e.self())
		return answer.Refused, err
	}
	ctx, cancel := context.WithTimeout(e.ctx, joinWait)
	defer cancel()
	var answer joinAnswer
	err := e.calls.call(ctx, joinSubject, joinRequest{e.self()}, &answer)
	if err != nil {
		return nil, asAPI(err)
	}
	return answer.Refused, nil
}

// refused notes that this node is not taken in. It is said once in the same words.
func (m *members) refused(r *refusal) {
	if r.Removed {
		m.out.Store(true)
	}
	if m.said != r.Why {
		m.said = r.Why
		m.engine.cfg.Logger.Error("this node is not taken into the cluster", "why", r.Why)
	}
}

// takeJoin answers a node that asks to be taken in.
func (m *members) takeJoin(body []byte) (any, *api.Error) {
	var q joinRequest
	if err := json.Unmarshal(body, &q); err != nil || q.Node.ID == 0 || q.Node.Name == "" {
		return nil, api.ErrBadRequest
	}
	if !m.engine.catalog.leads() {
		return nil, api.ErrClusterNotLeader
	}
	return m.takeIn(q.Node)
}

// takeIn enters a node in the registry, or refuses it. This node leads the meta group.
func (m *members) takeIn(n meta.Node) (joinAnswer, *api.Error) {
	e := m.engine
	select {
	case m.joining <- struct{}{}:
		defer func() { <-m.joining }()
	case <-e.ctx.Done():
		return joinAnswer{}, api.ErrClusterNotAvail
	}
	old, refused := judge(e.catalog.nodes(), n, e.online)
	if refused != nil {
		return joinAnswer{Refused: refused}, nil
	}
	if have, ok := e.catalog.node(n.ID); !ok || !sameNode(have, n) {
		if err := m.putNode(n, old); err != nil {
			return joinAnswer{}, err
		}
		m.wakeUp()
	}
	return joinAnswer{}, nil
}

// putNode enters a node in the registry in place of the old one, if that is not nil.
func (m *members) putNode(n meta.Node, old *meta.Node) *api.Error {
	e := m.engine
	entry := &meta.Entry{Op: meta.OpPutNode, Node: &n}
	if old != nil {
		entry.Replaces = old.ID
	}
	if _, _, err := e.catalog.do(entry); err != nil {
		return err
	}
	if old != nil {
		e.cfg.Logger.Warn("node comes back without its data, as a new one", "name", n.Name, "node", peerID(n.ID), "before", peerID(old.ID))
		m.adviseRemoved(old.ID, old.Name)
	}
	e.cfg.Logger.Info("node of the cluster", "name", n.Name, "node", peerID(n.ID), "tags", n.Tags)
	return nil
}

// judge decides about a node that wants to be in the registry. old is the node whose place it takes: one of
// the same name that lost its data, and its id with that.
func judge(nodes []meta.Node, n meta.Node, online func(uint64) bool) (old *meta.Node, refused *refusal) {
	for i := range nodes {
		have := &nodes[i]
		switch {
		case have.ID == n.ID && have.Removed:
			return nil, &refusal{Removed: true, Why: fmt.Sprintf(
				"node %s (%q) was removed from the cluster; to let this server in again as a new one, empty its store", peerID(n.ID), have.Name)}
		case have.ID == n.ID || have.Removed || have.Name != n.Name:
		case online(have.ID):
			return nil, &refusal{Why: fmt.Sprintf("another node, %s, is named %q too and is alive", peerID(have.ID), have.Name)}
		default:
			old = have
		}
	}
	return old, nil
}

// errNotIn is what a node says that is not in the cluster.
var errNotIn = errors.New("this server is not a member of the cluster")

// in reports whether this node belongs to the cluster. One that does not is silent: it has no part in what
// the others decide, and would answer wrongly.
func (m *members) in() bool {
	e := m.engine
	if m.out.Load() {
		return false
	}
	n, ok := e.catalog.node(e.cfg.Node)
	return ok && !n.Removed || !ok && e.founder()
}
