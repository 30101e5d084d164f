package service

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"
)

// peerQuestion is what a service asks those of other nodes: for the log of a plugin, to compile a module, or if
// neither is named for the bindings that they run.
type peerQuestion struct {
	Logs    string `json:"logs,omitempty"`
	Compile string `json:"compile,omitempty"` // digest
}

// peerAnswer is the answer of one.
type peerAnswer struct {
	Node     string        `json:"node"`
	Bindings []BindingInfo `json:"bindings,omitempty"`
	Lines    []LogLine     `json:"lines,omitempty"`
	Error    string        `json:"error,omitempty"` // of Compile
}

// How long others are waited for: for what they know, and until they have compiled a module.
const (
	askWait     = 2 * time.Second
	compileWait = 15 * time.Second
)

// answerPeer answers another node. What it knows it tells without waiting for the loop.
func (s *Service) answerPeer(question []byte) json.RawMessage {
	var q peerQuestion
	a := peerAnswer{Node: s.config.Node}
	switch {
	case json.Unmarshal(question, &q) != nil: // of a newer version; it does without
	case q.Logs != "":
		a.Lines = s.logOf(q.Logs).recent()
	case q.Compile != "":
		if err := s.compile(q.Compile); err != nil {
			a.Error = err.Error()
		}
	default:
		s.mu.Lock()
		here := s.here
		s.mu.Unlock()
		for _, b := range here {
			a.Bindings = append(a.Bindings, b.describe())
		}
	}
	data, err := json.Marshal(a)
	if err != nil {
		panic("BUG: encode answer to another node: " + err.Error())
	}
	return data
}

// compile leaves a module's code in the runtime's cache, so that a binding begins at once when it has to.
func (s *Service) compile(digest string) error {
	ctx, cancel := context.WithTimeout(s.ctx, compileWait)
	defer cancel()
	return s.inLoop(ctx, func(ctx context.Context) error {
		m, err := s.load(ctx, digest)
		s.release(m)
		return err
	})
}

// compileElsewhere has the other nodes compile a module and returns the names of all that have it, sorted.
func (s *Service) compileElsewhere(ctx context.Context, digest string) []string {
	nodes := []string{s.config.Node}
	for _, a := range s.askPeers(ctx, compileWait, peerQuestion{Compile: digest}) {
		if a.Error == "" {
			nodes = append(nodes, a.Node)
			continue
		}
		s.config.Logger.Warn("a node cannot compile a plugin; it tries again when it has to run it", "node", a.Node, "digest", digest,
			"err", a.Error)
	}
	slices.Sort(nodes)
	return nodes
}

func (s *Service) askPeers(ctx context.Context, wait time.Duration, q peerQuestion) (all []peerAnswer) {
	if s.config.Peers == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	question, err := json.Marshal(q)
	if err != nil {
		panic("BUG: encode question to other nodes: " + err.Error())
	}
	for _, data := range s.config.Peers.Ask(ctx, question) {
		var a peerAnswer
		if json.Unmarshal(data, &a) == nil {
			all = append(all, a)
		}
	}
	return all
}

// elsewhere returns what other nodes tell of the bindings that they run.
func (s *Service) elsewhere(ctx context.Context) map[bindingKey]BindingInfo {
	away := false
	for _, b := range s.bindings {
		away = away || b.away && b.spec.state == ""
	}
	if !away {
		return nil
	}
	told := map[bindingKey]BindingInfo{}
	for _, a := range s.askPeers(ctx, askWait, peerQuestion{}) {
		for _, info := range a.Bindings {
			told[bindingKey{info.Stream, info.Consumer}] = info
		}
	}
	return told
}

// A binding that was made or resumed gets a while to begin, wherever that is, so that its answer tells whether
// it did; lookBegun is the pause between two looks.
const (
	beginWait = 10 * time.Second
	lookBegun = 50 * time.Millisecond
)

// begun describes the bindings of a target when they have begun.
func (s *Service) begun(ctx context.Context, t *Target) *BindingsResponse {
	ctx, cancel := context.WithTimeout(ctx, beginWait)
	defer cancel()
	for {
		r := describeAll(s.matching(t), s.elsewhere(ctx))
		starting := slices.ContainsFunc(r.Bindings, func(b BindingInfo) bool { return b.State == StateStarting })
		if len(r.Bindings) > 0 && !starting {
			return r
		}
		select {
		case <-s.changed:
		case <-time.After(lookBegun):
		case <-ctx.Done():
			return r
		}
		s.resync() // it may be this node that leads now
	}
}

// logsEverywhere returns the last lines of a plugin's log on all nodes, oldest first.
func (s *Service) logsEverywhere(ctx context.Context, plugin string) []LogLine {
	lines := s.logOf(plugin).recent()
	for _, a := range s.askPeers(ctx, askWait, peerQuestion{Logs: plugin}) {
		lines = append(lines, a.Lines...)
	}
	slices.SortStableFunc(lines, func(a, b LogLine) int { return cmp.Compare(a.Time.UnixNano(), b.Time.UnixNano()) })
	return lines[max(0, len(lines)-logLines):]
}

// spread keeps modules and records on as many nodes as they are to be on.
func (s *Service) spread(ctx context.Context) {
	for _, stream := range []string{moduleStream, registryStream} {
		if err := s.config.Store.Spread(ctx, stream); err != nil && ctx.Err() == nil {
			s.config.Logger.Warn("spread the plugins over the cluster", "stream", stream, "err", err)
		}
	}
}
