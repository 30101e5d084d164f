package jetstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/meta"
)

// ErrNotAsked is returned for a request to all servers that this one is not to answer.
var ErrNotAsked = errors.New("jetstream: the request is for other servers")

// metaView is what this node knows of the meta group.
func (e *Engine) metaView() groupView {
	return e.view(e.catalog.group, e.cfg.Replica, e.members.metaVoters(), nil)
}

// ServeServer calls serve with the verbs of requests to a server that the engine answers, and with how. An
// answer waits for its turn on the engine's workers; done is not called for a request that is for other servers.
func (e *Engine) ServeServer(serve func(verb string, answer func(request []byte, done func(any, error))) error) error {
	return serve("JSZ", func(request []byte, done func(any, error)) {
		e.work(chores, func() {
			if data, err := e.JSz(request); !errors.Is(err, ErrNotAsked) {
				done(data, err)
			}
		})
	})
}

// JSz answers a request $SYS.REQ.SERVER.PING.JSZ. It may wait for groups for a moment.
func (e *Engine) JSz(request []byte) (any, error) {
	var q api.JSzRequest
	if len(request) > 0 {
		if err := json.Unmarshal(request, &q); err != nil {
			return nil, fmt.Errorf("parse request: %w", err)
		}
	}
	if q.LeaderOnly && e.cfg.Cluster != "" && !e.catalog.leads() {
		return nil, ErrNotAsked
	}
	q.Streams = q.Streams || q.Consumer
	info := &api.JSInfo{
		ServerStats: e.serverStats(), ID: e.cfg.ServerID, Now: time.Now().UTC(), Total: len(e.accounts),
		Config: api.ServerConfig{
			MaxMemory: e.cfg.MaxMemory, MaxStore: e.cfg.MaxStore, SyncAlways: true, Domain: e.cfg.Domain,
			UniqueTag: e.cfg.UniqueTag, Strict: true,
		},
		Limits: &api.ServerLimits{MaxConsumers: e.cfg.Limits.MaxConsumers},
	}
	if e.cfg.Cluster != "" {
		info.Meta = e.metaInfo()
	}
	for _, a := range e.accounts {
		a.count(info, q.RaftGroups)
	}
	names := slices.Sorted(maps.Keys(e.accounts))
	switch {
	case e.accounts[q.Account] != nil:
		names = []string{q.Account}
	case q.Accounts || q.Streams && q.Account == "":
		most := q.Limit
		if most == 0 {
			most = 1024
		}
		names = names[min(max(q.Offset, 0), len(names)):]
		names = names[:min(max(most, 0), len(names))]
	default:
		names = nil
	}
	for _, name := range names {
		info.AccountDetails = append(info.AccountDetails, e.accounts[name].detail(&q))
	}
	return info, nil
}

// serverStats is what all streams use here.
func (e *Engine) serverStats() api.ServerStats {
	store, memory := e.reserved()
	s := api.ServerStats{
		Memory: uint64(max(0, e.used.memory.Load())), Store: uint64(max(0, e.used.file.Load())),
		ReservedMemory: uint64(memory), ReservedStore: uint64(store), Accounts: len(e.accounts), API: api.APIStats{Level: api.Level},
	}
	for _, a := range e.accounts {
		s.API.Total += a.requests.Load()
		s.API.Errors += a.failures.Load()
	}
	e.members.mu.Lock()
	defer e.members.mu.Unlock()
	if e.cfg.Cluster != "" {
		s.HAAssets++ // the meta group
	}
	for _, a := range e.members.assets {
		if len(a.want.Members) > 1 {
			s.HAAssets++
		}
	}
	return s
}

// metaInfo tells about the meta group.
func (e *Engine) metaInfo() *api.MetaClusterInfo {
	v := e.metaView()
	info := &api.MetaClusterInfo{Name: e.cfg.Cluster, Size: len(v.seats), Snapshot: &api.MetaSnapshotStats{}}
	info.QuorumNeeded = info.Size/2 + 1
	if lead := v.status.Lead; lead != 0 {
		info.Leader, info.Peer = e.nodeName(meta.NodeOf(lead)), peerID(meta.NodeOf(lead))
	}
	info.Replicas = e.peers(&v, v.status.Lead)
	return info
}

// count adds up the replicas of an account that are here.
func (a *account) count(info *api.JSInfo, leaders bool) {
	for _, s := range a.all() {
		s.mu.RLock()
		messages, bytes := s.machine.Usage()
		consumers := len(s.consumers)
		s.mu.RUnlock()
		info.Streams++
		info.Consumers += consumers
		info.Messages += messages
		info.Bytes += bytes
		if !leaders {
			continue
		}
		if s.leads() {
			info.StreamsLeader++
		}
		for _, c := range s.allConsumers() {
			if c.leads() {
				info.ConsumersLeader++
			}
		}
	}
}

// detail tells about an account.
func (a *account) detail(q *api.JSzRequest) *api.AccountDetail {
	d := &api.AccountDetail{Name: a.name, ID: a.name, ServerStats: api.ServerStats{
		Memory: uint64(max(0, a.used.memory.Load())), Store: uint64(max(0, a.used.file.Load())),
		API: api.APIStats{Level: api.Level, Total: a.requests.Load(), Errors: a.failures.Load()},
	}}
	streams := a.all()
	slices.SortFunc(streams, func(x, y *Stream) int {
		if x.name < y.name {
			return -1
		}
		return 1
	})
	for _, s := range streams {
		info := s.info(false)
		reserved := uint64(max(0, info.Config.MaxBytes))
		if s.storage == api.MemoryStorage {
			d.ReservedMemory += reserved
		} else {
			d.ReservedStore += reserved
		}
		if !q.Streams || q.StreamLeaderOnly && !s.leads() {
			continue
		}
		d.Streams = append(d.Streams, s.detail(q, info))
	}
	return d
}

// detail tells about a stream and, if that is wanted, its consumers.
func (s *Stream) detail(q *api.JSzRequest, info *api.StreamInfo) api.StreamDetail {
	d := api.StreamDetail{Name: s.name, Created: info.Created, Cluster: info.Cluster, State: info.State}
	if q.Config {
		d.Config = &info.Config
	}
	if q.RaftGroups && info.Cluster != nil {
		d.RaftGroup = info.Cluster.RaftGroup
	}
	if !q.Consumer {
		return d
	}
	consumers := s.allConsumers()
	slices.SortFunc(consumers, func(x, y *consumerEntry) int {
		if x.name < y.name {
			return -1
		}
		return 1
	})
	for _, c := range consumers {
		ci := c.Info()
		if !q.Config {
			ci.Config = nil
		}
		d.Consumers = append(d.Consumers, ci)
		if q.RaftGroups && ci.Cluster != nil && ci.Cluster.RaftGroup != "" {
			d.ConsumerRaftGroups = append(d.ConsumerRaftGroups, &api.RaftGroupDetail{Name: c.name, RaftGroup: ci.Cluster.RaftGroup})
		}
	}
	return d
}
