package jetstream

import (
	"context"
	"encoding/json"
	"time"

	"millrace/appliance/server/jetstream/api"
)

// usageSubject is where all storage nodes tell what the streams of an account use that they lead.
const usageSubject = "$MILLRACE.USAGE"

// gatherWait bounds the time that answers of all nodes are waited for.
const gatherWait = 2 * time.Second

// usageRequest asks for the usage of an account.
type usageRequest struct {
	Account string `json:"account"`
}

// usageAnswer is the usage of the streams that one node leads.
type usageAnswer struct {
	Node             uint64 `json:"node"`
	Memory           uint64 `json:"memory"`
	Store            uint64 `json:"store"`
	Consumers        int    `json:"consumers"`
	Requests, Errors uint64
}

// answerUsage answers another node.
func (e *Engine) answerUsage(body []byte) (any, *api.Error) {
	var q usageRequest
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, api.ErrBadRequest
	}
	a := e.accounts[q.Account]
	if a == nil {
		return usageAnswer{Node: e.cfg.Node}, nil
	}
	return a.usage(), nil
}

// usage sums up the streams that are led here.
func (a *account) usage() usageAnswer {
	u := usageAnswer{Node: a.engine.cfg.Node, Requests: a.requests.Load(), Errors: a.failures.Load()}
	for _, s := range a.all() {
		if !s.leads() {
			continue
		}
		s.mu.RLock()
		_, bytes := s.machine.Usage()
		u.Consumers += len(s.consumers)
		s.mu.RUnlock()
		if s.storage == api.MemoryStorage {
			u.Memory += bytes
		} else {
			u.Store += bytes
		}
	}
	return u
}

func (r *request) accountInfo() (any, *api.Error) {
	if err := api.CheckEmpty(r.body); err != nil {
		return nil, err
	}
	a := r.account
	stats := &api.AccountStats{Domain: a.engine.cfg.Domain, API: api.APIStats{Level: api.Level}}
	stats.Limits = a.limits
	c := a.engine.catalog
	c.mu.Lock()
	nodes := c.machine.Nodes()
	for _, ms := range c.machine.Streams(a.name, "") {
		stats.Streams++
		reserved := uint64(max(0, ms.Config.MaxBytes))
		if ms.Config.Storage == api.MemoryStorage {
			stats.ReservedMemory += reserved
		} else {
			stats.ReservedStore += reserved
		}
	}
	c.mu.Unlock()
	add := func(u usageAnswer) {
		stats.Memory += u.Memory
		stats.Store += u.Store
		stats.Consumers += u.Consumers
		stats.API.Total += u.Requests
		stats.API.Errors += u.Errors
	}
	add(a.usage())
	waiting := map[uint64]bool{}
	for _, n := range nodes {
		if n.ID != a.engine.cfg.Node && a.engine.online(n.ID) {
			waiting[n.ID] = true
		}
	}
	if len(waiting) > 0 {
		ctx, cancel := context.WithTimeout(a.engine.ctx, gatherWait)
		defer cancel()
		a.engine.calls.gather(ctx, usageSubject, usageRequest{a.name}, func(data json.RawMessage) bool {
			var u usageAnswer
			if json.Unmarshal(data, &u) == nil && waiting[u.Node] {
				delete(waiting, u.Node)
				add(u)
			}
			return len(waiting) > 0
		})
	}
	return api.AccountInfoResponse{Response: r.ok(), AccountStats: stats}, nil
}

// limitsOf returns what the account's configurations are checked against.
func (a *account) limitsOf() api.Limits {
	l := a.engine.cfg.Limits
	l.Account, l.Clustered = a.limits, a.engine.cfg.Cluster != ""
	return l
}
