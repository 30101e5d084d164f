package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/plugins"
	"millrace/plugins/abi"
)

// PushRequest makes a module of the object store the newest version of a plugin.
type PushRequest struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// PushResponse answers PUSH.
type PushResponse struct {
	Name string `json:"name"`
	Version
	CompiledNS time.Duration `json:"compiled_ns"`     // time that validation and compilation took
	Nodes      []string      `json:"nodes,omitempty"` // of a cluster, that have compiled it
}

// push validates, compiles and starts the module once before it becomes a version. Pushing the newest
// version again changes nothing.
func (s *Service) push(ctx context.Context, r *PushRequest) (any, error) {
	if !validName(r.Name) {
		return nil, badRequest("plugin name %q: use letters, digits, - and _", r.Name)
	}
	rec, err := s.registry.get(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	m, err := s.load(ctx, r.Digest)
	if err != nil {
		return nil, pluginError(r.Name, err)
	}
	defer s.release(m)
	// A refusal is no fault: the module may need a configuration to start, which only a binding has.
	if err := s.tryStart(ctx, m, plugins.InstanceConfig{}); err != nil && !errors.Is(err, plugins.ErrRefused) {
		return nil, pluginError(r.Name, err)
	}
	latest := rec.latest()
	if latest == nil || latest.Digest != m.Digest {
		v := Version{Version: 1, Digest: m.Digest, Size: m.Size, Pushed: time.Now().UTC()}
		if latest != nil {
			v.Version = latest.Version + 1
		}
		rec.Versions = append(rec.Versions, v)
		if err := s.registry.put(ctx, rec); err != nil {
			return nil, err
		}
		s.spread(ctx)
		s.config.Logger.Info("plugin pushed", "plugin", r.Name, "version", v.Version, "digest", v.Digest)
		latest = rec.latest()
	}
	response := &PushResponse{Name: r.Name, Version: *latest, CompiledNS: m.Compiled}
	if s.config.Peers != nil {
		response.Nodes = s.compileElsewhere(ctx, m.Digest)
	}
	return response, nil
}

// tryStart starts a throw-away instance. The error tells what the guest logged last.
func (s *Service) tryStart(ctx context.Context, m *loadedModule, config plugins.InstanceConfig) error {
	last := ""
	config.Limits = s.limits(config.Limits.MemoryBytes)
	config.Log = func(_ abi.Level, text string) { last = text }
	in, err := m.Instantiate(ctx, config)
	if err != nil {
		if last != "" {
			return fmt.Errorf("%w: %s", err, last)
		}
		return err
	}
	in.Close()
	return nil
}

func (s *Service) limits(memory int64) plugins.Limits {
	l := s.config.Limits
	if memory > 0 {
		l.MemoryBytes = memory
	}
	return l
}

// pluginError makes the error object of an error, with the plugin's name in it.
func pluginError(name string, err error) *Error {
	e := *asError(err)
	e.Description = "plugin " + name + ": " + err.Error()
	return &e
}
