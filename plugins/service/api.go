package service

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Subjects of the service.
const (
	APIPrefix = "$MILLRACE.API.PLUGIN." // then the verb
	LogPrefix = "$MILLRACE.LOG.PLUGIN." // then the name of the plugin; each message is a LogLine
)

// Verbs of the API.
const (
	VerbPush   = "PUSH"
	VerbBind   = "BIND"
	VerbUnbind = "UNBIND"
	VerbList   = "LIST"
	VerbInfo   = "INFO"
	VerbPause  = "PAUSE"
	VerbResume = "RESUME"
	VerbRemove = "REMOVE"
	VerbLogs   = "LOGS"
)

// ErrorResponse is what any request is answered with that fails.
type ErrorResponse struct {
	Type  string `json:"type"`
	Error *Error `json:"error"`
}

// Target names a plugin and, where that is not enough, one of its bindings.
type Target struct {
	Plugin   string `json:"plugin"`
	Stream   string `json:"stream,omitempty"`
	Consumer string `json:"consumer,omitempty"`
}

// ListResponse answers LIST.
type ListResponse struct {
	Plugins []PluginInfo `json:"plugins"`
}

// PluginInfo answers INFO, and is an element of LIST.
type PluginInfo struct {
	Name     string        `json:"name"`
	Versions []Version     `json:"versions"`
	Bindings []BindingInfo `json:"bindings"`
}

// BindingInfo is a binding and what it did since it was started.
type BindingInfo struct {
	Plugin     string            `json:"plugin"`
	Version    int               `json:"version"`
	Stream     string            `json:"stream"`
	Consumer   string            `json:"consumer"`
	Filters    []string          `json:"filters,omitempty"`
	Publish    []string          `json:"publish,omitempty"`
	KV         map[string]string `json:"kv,omitempty"`
	Batch      int               `json:"batch"`
	Tick       string            `json:"tick,omitempty"`
	DeadLetter string            `json:"dead_letter,omitempty"`
	MaxDeliver int               `json:"max_deliver"`
	Node       string            `json:"node,omitempty"` // that runs it
	State      string            `json:"state"`
	Reason     string            `json:"reason,omitempty"`
	Stats      Stats             `json:"stats"`
	Metrics    map[string]int64  `json:"metrics,omitempty"`
}

// BindingsResponse answers BIND, UNBIND, PAUSE and RESUME with the bindings concerned.
type BindingsResponse struct {
	Bindings []BindingInfo `json:"bindings"`
}

// RemoveResponse answers REMOVE.
type RemoveResponse struct {
	Removed []Version `json:"removed"` // their modules stay in the object store
}

// LogsResponse answers LOGS with the last lines, oldest first.
type LogsResponse struct {
	Lines []LogLine `json:"lines"`
}

// handler answers one request; it runs in the loop.
type handler struct {
	typ string // response type
	do  func(ctx context.Context, data []byte) (any, error)
}

// handle adapts a method with a typed request.
func handle[R any](name string, do func(context.Context, *R) (any, error)) handler {
	return handler{responseType(name), func(ctx context.Context, data []byte) (any, error) {
		var r R
		if err := decode(data, &r); err != nil {
			return nil, err
		}
		return do(ctx, &r)
	}}
}

func decode(data []byte, v any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		data = []byte("{}")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badRequest("request is not the JSON expected: %v", err)
	}
	return nil
}

func (s *Service) handlers() map[string]handler {
	return map[string]handler{
		VerbPush:   handle("push", s.push),
		VerbBind:   handle("bind", s.bind),
		VerbUnbind: handle("unbind", s.unbind),
		VerbList:   handle("list", s.list),
		VerbInfo:   handle("info", s.info),
		VerbPause:  handle("pause", func(ctx context.Context, t *Target) (any, error) { return s.change(ctx, t, StatePaused) }),
		VerbResume: handle("resume", func(ctx context.Context, t *Target) (any, error) { return s.change(ctx, t, "") }),
		VerbRemove: handle("remove", s.remove),
		VerbLogs:   handle("logs", s.recentLogs),
	}
}

// enqueue hands a request to the loop.
func (s *Service) enqueue(r Request, h handler) {
	select {
	case s.work <- func(ctx context.Context) { r.Reply(h.answer(ctx, r.Data)) }:
	default:
		r.Reply(h.encode(nil, &Error{503, CodeBusy, fmt.Sprintf("busy: %d plugin requests are waiting", queued)}))
	}
}

// Refuse returns the answer to a request on a subject of the API that is not served.
func Refuse(subject string, err *Error) []byte {
	name := strings.ToLower(strings.TrimPrefix(subject, APIPrefix))
	return handler{typ: responseType(name)}.encode(nil, err)
}

func responseType(name string) string { return "io.millrace.api.plugin.v1." + name + "_response" }

func (h handler) answer(ctx context.Context, data []byte) []byte {
	response, err := h.do(ctx, data)
	return h.encode(response, err)
}

// encode writes the response as JSON with its type as first key.
func (h handler) encode(response any, err error) []byte {
	if err != nil {
		response = &ErrorResponse{Type: h.typ, Error: asError(err)}
	}
	b, err := json.Marshal(response)
	if err != nil {
		panic("BUG: encode plugin API response: " + err.Error())
	}
	if _, failed := response.(*ErrorResponse); failed {
		return b
	}
	return append(fmt.Appendf(nil, `{"type":%q,`, h.typ), b[1:]...)
}

func (s *Service) list(ctx context.Context, _ *struct{}) (any, error) {
	records, err := s.registry.list(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.sync(ctx); err != nil {
		return nil, err
	}
	response := &ListResponse{Plugins: []PluginInfo{}}
	elsewhere := s.elsewhere(ctx)
	for _, rec := range records {
		response.Plugins = append(response.Plugins, s.describe(rec, elsewhere))
	}
	return response, nil
}

func (s *Service) info(ctx context.Context, t *Target) (any, error) {
	rec, err := s.registry.get(ctx, t.Plugin)
	if err != nil {
		return nil, err
	}
	if err := s.sync(ctx); err != nil {
		return nil, err
	}
	info := s.describe(rec, s.elsewhere(ctx))
	if len(info.Versions) == 0 && len(info.Bindings) == 0 {
		return nil, pluginNotFound(t.Plugin)
	}
	return &info, nil
}

func (s *Service) describe(rec *record, elsewhere map[bindingKey]BindingInfo) PluginInfo {
	return PluginInfo{rec.Name, rec.Versions, describeAll(s.matching(&Target{Plugin: rec.Name}), elsewhere).Bindings}
}

// matching returns the bindings that a target names, sorted.
func (s *Service) matching(t *Target) []*binding {
	var found []*binding
	for key, b := range s.bindings {
		if b.spec.plugin == t.Plugin && (t.Stream == "" || t.Stream == key.stream) &&
			(t.Consumer == "" || t.Consumer == key.consumer) {
			found = append(found, b)
		}
	}
	slices.SortFunc(found, func(a, b *binding) int {
		return cmp.Or(cmp.Compare(a.spec.stream, b.spec.stream), cmp.Compare(a.spec.consumer, b.spec.consumer))
	})
	return found
}

// remove forgets a plugin that is not bound.
func (s *Service) remove(ctx context.Context, t *Target) (any, error) {
	rec, err := s.registry.get(ctx, t.Plugin)
	if err != nil {
		return nil, err
	}
	if len(rec.Versions) == 0 {
		return nil, pluginNotFound(t.Plugin)
	}
	if err := s.sync(ctx); err != nil {
		return nil, err
	}
	if bound := s.matching(&Target{Plugin: t.Plugin}); len(bound) > 0 {
		return nil, &Error{409, CodePluginInUse, fmt.Sprintf("plugin %q is bound to consumer %s of stream %s: unbind it first",
			t.Plugin, bound[0].spec.consumer, bound[0].spec.stream)}
	}
	removed := rec.Versions
	rec.Versions = nil
	return &RemoveResponse{Removed: removed}, s.registry.put(ctx, rec)
}

func (s *Service) recentLogs(ctx context.Context, t *Target) (any, error) {
	return &LogsResponse{Lines: s.logsEverywhere(ctx, t.Plugin)}, nil
}
