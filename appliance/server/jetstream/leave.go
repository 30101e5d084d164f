package jetstream

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/appliance/server/jetstream/meta"
)

// leaveWait bounds the time in which a node that is about to stop hands over what it leads.
const leaveWait = 2 * time.Second

// Leave hands over what is led here, with the consumers that are in memory, to nodes that can be reached: the node is
// about to stop, and its clients and those of others need not wait for elections. It takes leaveWait at most.
func (e *Engine) Leave() {
	ctx, cancel := context.WithTimeout(e.ctx, leaveWait)
	defer cancel()
	var led []*asset
	for _, a := range e.members.all() {
		if lead, _ := a.group.Leader(); lead == a.spec.Replica && e.hasHeir(a) {
			led = append(led, a)
		}
	}
	const atOnce = 64
	began := time.Now()
	var moved atomic.Int64
	next := make(chan *asset)
	var wg sync.WaitGroup
	for range min(len(led), atOnce) {
		wg.Go(func() {
			for a := range next {
				if e.handOver(ctx, a.group, a.spec.Replica, a.replica(), nil) == nil {
					moved.Add(1)
				}
			}
		})
	}
	for _, a := range led {
		next <- a
	}
	close(next)
	wg.Wait()
	e.awaitSent(ctx, led)
	// The meta group comes last: until then this node knows what is decided.
	if e.catalog.leads() && e.anyOnline() && e.handOver(ctx, e.catalog.group, e.cfg.Replica, nil, nil) == nil {
		moved.Add(1)
	}
	if n := moved.Load(); n > 0 {
		e.cfg.Logger.Info("leadership handed over, since this node stops", "groups", n, "took", time.Since(began).Round(time.Millisecond))
	}
}

// hasHeir reports whether another node of the group can be reached.
func (e *Engine) hasHeir(a *asset) bool {
	e.members.mu.Lock()
	defer e.members.mu.Unlock()
	return slices.ContainsFunc(a.want.Members, func(m meta.Member) bool { return m.Node != e.cfg.Node && e.online(m.Node) })
}

// anyOnline reports whether another node of the cluster can be reached.
func (e *Engine) anyOnline() bool {
	e.catalog.mu.Lock()
	nodes := e.catalog.machine.Nodes()
	e.catalog.mu.Unlock()
	return slices.ContainsFunc(nodes, func(n meta.Node) bool { return n.ID != e.cfg.Node && !n.Removed && e.online(n.ID) })
}

// awaitSent waits until the consumers in memory of streams that were handed over are where those are led now, and
// publishers know of it.
func (e *Engine) awaitSent(ctx context.Context, list []*asset) {
	const every = 5 * time.Millisecond
	look := time.NewTicker(every)
	defer look.Stop()
	here := func(a *asset) bool {
		s := a.account.local(a.stream)
		return s != nil && !s.leads() && (s.keeps() || slices.ContainsFunc(s.allConsumers(), func(c *consumerEntry) bool { return c.id == 0 }))
	}
	for e.sending.Load() > 0 || slices.ContainsFunc(list, here) {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}
