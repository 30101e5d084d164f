package jetstream

import (
	"time"

	"millrace/appliance/server/jetstream/meta"
)

// A group that begins has no leader, and its replicas start one after the other: who starts first asks
// for votes in vain. It asks again after firstCampaign, and after twice the time every time.
const (
	firstCampaign = 10 * time.Millisecond
	lastCampaign  = 2 * time.Second // no more are needed then: replicas call elections by themselves
)

// Preferred returns the replica that is to lead a group first. Leaders are spread over the nodes by it.
func (s *GroupSpec) Preferred() uint64 {
	if len(s.Began) == 0 {
		return 0
	}
	return s.Began[s.ID%uint64(len(s.Began))]
}

// campaign has the preferred replica of a group that is started call elections until somebody leads. Where
// somebody leads already, that is left alone (Group.Campaign). It does not wait.
func (e *Engine) campaign(spec GroupSpec, g Group) {
	if len(spec.Began) > 1 && e.first(&spec) == spec.Replica {
		e.campaignAfter(g, firstCampaign)
	}
}

// first returns the replica that calls the first election: the preferred one, or if its node cannot be reached the
// next one that can.
func (e *Engine) first(spec *GroupSpec) uint64 {
	n := uint64(len(spec.Began))
	for i := range n {
		replica := spec.Began[(spec.ID+i)%n]
		if e.cfg.Online == nil || e.online(meta.NodeOf(replica)) {
			return replica
		}
	}
	return spec.Preferred()
}

func (e *Engine) campaignAfter(g Group, pause time.Duration) {
	leader, _ := g.Leader()
	if leader != 0 || pause > lastCampaign || e.ctx.Err() != nil {
		return
	}
	g.Campaign()
	time.AfterFunc(pause, func() { e.campaignAfter(g, 2*pause) })
}
