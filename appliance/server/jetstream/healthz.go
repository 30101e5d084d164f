package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/appliance/server/jetstream/api"
	"millrace/appliance/server/jetstream/membership"
)

// healthWait bounds the time that all checks of one request may take.
const healthWait = 4 * time.Second

// Reasons for which a replica is not well.
var (
	errLeaderless = errors.New("no leader")
	errBehind     = errors.New("not caught up")
)

// Healthz answers a request $SYS.REQ.SERVER.PING.HEALTHZ: all is well when this node has its place in the
// cluster and its replicas have caught up. It may wait for groups for a moment.
func (e *Engine) Healthz(request []byte) (any, error) {
	var q api.HealthzRequest
	if len(request) > 0 {
		if err := json.Unmarshal(request, &q); err != nil {
			return nil, fmt.Errorf("parse request: %w", err)
		}
	}
	if err := q.Check(); err != nil {
		return q.Health(400, api.HealthzError{Type: api.HealthzBadRequest, Error: err.Error()}), nil
	}
	if q.JSEnabled || q.JSEnabledOnly {
		return q.Health(200), nil
	}
	ctx, cancel := context.WithTimeout(e.ctx, healthWait)
	defer cancel()
	if err := e.metaHealth(ctx); err != nil {
		return q.Health(503, api.HealthzError{Type: api.HealthzJetStream, Error: err.Error()}), nil
	}
	if q.JSMetaOnly || q.JSServerOnly {
		return q.Health(200), nil
	}
	if missing, ok := e.missing(&q); ok {
		return q.Health(404, missing), nil
	}
	return q.Health(503, e.unwell(ctx, &q)...), nil
}

// metaHealth says what is wrong with this node's place in the cluster.
func (e *Engine) metaHealth(ctx context.Context) error {
	c := e.catalog
	c.mu.Lock()
	failed := c.failed
	c.mu.Unlock()
	if failed != nil {
		return fmt.Errorf("JetStream meta layer apply error: %w", failed)
	}
	if !e.members.in() {
		return errNotIn
	}
	select {
	case <-c.ready:
	default:
		return errors.New("JetStream is not current with the meta leader")
	}
	if err := e.current(ctx, c.group); err != nil {
		return fmt.Errorf("JetStream is not current with the meta leader: %w", err)
	}
	return nil
}

// current says why a replica is not where its group is.
func (e *Engine) current(ctx context.Context, group Group) error {
	s, err := group.Status(ctx)
	switch {
	case err != nil:
		return err
	case s.Lead == 0:
		return errLeaderless
	case s.Damaged != 0:
		return fmt.Errorf("entry %d of its log is damaged and not repaired", s.Damaged)
	case s.Applied+membership.Slack < s.Commit:
		return errBehind
	}
	return nil
}

// missing tells that what the request names does not exist.
func (e *Engine) missing(q *api.HealthzRequest) (api.HealthzError, bool) {
	if q.Account == "" {
		return api.HealthzError{}, false
	}
	c := e.catalog
	_, stream := c.stream(q.Account, q.Stream)
	_, consumer := c.consumer(q.Account, q.Stream, q.Consumer)
	bad := api.HealthzError{Account: q.Account, Stream: q.Stream, Consumer: q.Consumer}
	switch {
	case e.accounts[q.Account] == nil:
		bad.Type, bad.Error = api.HealthzAccount, fmt.Sprintf("JetStream account %q not found", q.Account)
	case q.Stream != "" && !stream:
		bad.Type, bad.Error = api.HealthzStream, fmt.Sprintf("JetStream stream %q not found on account %q", q.Stream, q.Account)
	case q.Consumer != "" && !consumer:
		bad.Type = api.HealthzConsumer
		bad.Error = fmt.Sprintf("JetStream consumer %q not found for stream %q on account %q", q.Consumer, q.Stream, q.Account)
	default:
		return bad, false
	}
	return bad, true
}

// unwell lists the replicas here that are not well; without details the first of them is enough.
func (e *Engine) unwell(ctx context.Context, q *api.HealthzRequest) []api.HealthzError {
	var list []api.HealthzError
	asked := func(account, stream, consumer string) bool {
		return (q.Account == "" || q.Account == account) && (q.Stream == "" || q.Stream == stream) &&
			(q.Consumer == "" || q.Consumer == consumer)
	}
	for _, name := range slices.Sorted(maps.Keys(e.accounts)) {
		a := e.accounts[name]
		a.mu.RLock()
		offline := maps.Clone(a.offline)
		a.mu.RUnlock()
		for _, stream := range slices.Sorted(maps.Keys(offline)) {
			if asked(name, stream, "") {
				list = append(list, api.HealthzError{Type: api.HealthzStream, Account: name, Stream: stream,
					Error: fmt.Sprintf("JetStream stream '%s > %s' could not be recovered: %v", name, stream, offline[stream])})
			}
		}
	}
	for _, a := range e.members.all() {
		if len(list) > 0 && !q.Details || ctx.Err() != nil {
			break
		}
		if !asked(a.account.name, a.stream, a.consumer) {
			continue
		}
		err := e.current(ctx, a.group)
		switch {
		case err == nil:
		case a.consumer == "":
			list = append(list, api.HealthzError{Type: api.HealthzStream, Account: a.account.name, Stream: a.stream,
				Error: fmt.Sprintf("JetStream stream '%s > %s' is not current: %v", a.account.name, a.stream, err)})
		default:
			list = append(list, api.HealthzError{Type: api.HealthzConsumer, Account: a.account.name, Stream: a.stream, Consumer: a.consumer,
				Error: fmt.Sprintf("JetStream consumer '%s > %s > %s' is not current: %v", a.account.name, a.stream, a.consumer, err)})
		}
	}
	return list
}
