package jetstream

import (
	"time"

	"millrace/appliance/server/jetstream/meta"
)

// A replica that has failed does not come back by itself: its log may lack what it has promised, or its state may be
// another one than that of the others. It is taken out of its group, by the catalogue, and another one comes in its place,
// with an id and a log of its own, and gets everything from the others.

const (
	// rebuildRetry is when a replica that could not be replaced yet is looked at again.
	rebuildRetry = 5 * time.Second
	// rebuildPause is the time between two replacements of replicas of one group on a node. What fails because of what
	// is in the log fails again.
	rebuildPause = 10 * time.Minute
)

// rebuild has a replica that has failed here replaced, when others of its group go on. It does not wait.
func (e *Engine) rebuild(a *account, stream, consumer string, spec GroupSpec, cause error) {
	if e.cfg.Cluster == "" || spec.ID == 0 || spec.ID == metaGroup {
		return
	}
	e.work(chores, func() {
		group, ok := e.catalog.groupOf(a.name, stream, consumer)
		if !ok || e.ctx.Err() != nil {
			return
		}
		member, ok := group.Replica(e.cfg.Node)
		if !ok || group.ID != spec.ID || member.Replica != spec.Replica {
			return // it is done
		}
		again := func(pause time.Duration) {
			time.AfterFunc(pause, func() { e.rebuild(a, stream, consumer, spec, cause) })
		}
		log := e.cfg.Logger.With("account", a.name, "stream", stream, "consumer", consumer, "group", spec.ID)
		if len(group.Members) < 3 && group.Target == nil {
			log.Error("a replica has failed and cannot be replaced: the others are too few to do without it", "error", cause)
			return
		}
		e.members.mu.Lock()
		last, rebuilt := e.members.rebuilt[spec.ID]
		e.members.mu.Unlock()
		if wait := rebuildPause - time.Since(last); rebuilt && wait > 0 {
			log.Error("a replica has failed again, and is replaced later", "after", wait, "error", cause)
			again(wait)
			return
		}
		if !e.calls.led(spec.ID) || group.Target != nil {
			again(rebuildRetry)
			return
		}
		fx, _, err := e.catalog.do(&meta.Entry{
			Op: meta.OpEvict, Account: a.name, Stream: stream, Consumer: consumer, Members: []meta.Member{member},
		})
		if err != nil {
			log.Warn("a replica that has failed is not replaced yet", "error", err)
			again(rebuildRetry)
			return
		}
		if fx.Stale {
			return
		}
		e.members.mu.Lock()
		e.members.rebuilt[spec.ID] = time.Now()
		e.members.mu.Unlock()
		log.Warn("a replica has failed; its data here is given up, and a new one gets it from the others", "error", cause)
	})
}

// groupOf returns the group of a stream, or of a consumer of it if that is named.
func (c *catalog) groupOf(account, stream, consumer string) (meta.Group, bool) {
	if consumer != "" {
		mc, ok := c.consumer(account, stream, consumer)
		return mc.Group, ok
	}
	ms, ok := c.stream(account, stream)
	return ms.Group, ok
}
