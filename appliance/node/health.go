package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// health answers HEALTHZ, whose request and fields are nats-server's: the node does all that it is
// configured for. It serves clients, its store can be written, it has a route to the cluster that it is to
// be part of, and what its engine asks for is fulfilled. It may wait for groups for a moment.
func (n *Node) health(request []byte) (any, error) {
	if err := n.unwell(); err != nil {
		return api.HealthStatus{Status: "unavailable", StatusCode: http.StatusServiceUnavailable, Error: err.Error()}, nil
	}
	if e := n.serving.Load(); e != nil {
		return e.Healthz(request)
	}
	return api.HealthStatus{Status: "ok", StatusCode: http.StatusOK}, nil
}

// unwell returns the first thing that is wrong, but for the engine's.
func (n *Node) unwell() error {
	if !n.ready.Load() {
		return errors.New("starting")
	}
	if cl := n.settings.Cluster; cl != nil && len(cl.Routes) > 0 && n.broker.Routez().NumRoutes == 0 {
		return fmt.Errorf("cluster %s: no route to any other server", n.broker.Cluster())
	}
	if !n.settings.JetStream.Enabled {
		return nil
	}
	if n.serving.Load() == nil {
		return fmt.Errorf("cluster %s: not formed with this node yet", n.broker.Cluster())
	}
	if err := n.store.journal.Err(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	if err := n.store.journal.Stalled(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// noStreams answers JSZ in place of an engine: who asks all servers waits for as many answers as there are servers.
func (n *Node) noStreams(request []byte, done func(any, error)) {
	var q api.JSzRequest
	if len(request) > 0 {
		if err := json.Unmarshal(request, &q); err != nil {
			done(nil, fmt.Errorf("parse request: %w", err))
			return
		}
	}
	if !q.LeaderOnly {
		done(api.JSInfo{ID: n.broker.ID(), Now: time.Now().UTC(), Disabled: true}, nil)
	}
}
