package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"millrace/tools/cluster"
)

// server is one running server of the comparison, and two more of the same program without streams,
// which are a cluster.
type server struct {
	process
	name string
	pair [2]*process
}

// process is one running server.
type process struct {
	cluster.Process
	dir string
}

func (p *process) url() string { return "nats://" + p.Addr }

// start runs the servers. On an error those that run are returned with it.
func (b *bench) start(ctx context.Context, dir string) ([]*server, error) {
	programs := []struct{ path, options string }{
		{b.millraced, ""},
		{b.natsServer, "sync_interval: always"},
		{b.natsServer, ""},
	}
	var servers []*server
	for i, p := range programs {
		if ctx.Err() != nil {
			return servers, ctx.Err()
		}
		s := &server{process: process{dir: filepath.Join(dir, fmt.Sprint(i))}, name: serverNames[i]}
		servers = append(servers, s)
		options := fmt.Sprintf("jetstream {\n  store_dir: %q\n  %s\n}\n", filepath.Join(s.dir, "store"), p.options)
		if err := s.start(p.path, options); err != nil {
			return servers, fmt.Errorf("start %s: %w", s.name, err)
		}
		if err := s.startPair(p.path); err != nil {
			return servers, fmt.Errorf("start the cluster of %s: %w", s.name, err)
		}
	}
	return servers, nil
}

// startPair runs the two servers of the cluster. They are connected a moment later.
func (s *server) startPair(program string) error {
	var ports [2]int
	for i := range ports {
		var err error
		if ports[i], err = cluster.FreePort(); err != nil {
			return err
		}
	}
	for i, port := range ports {
		s.pair[i] = &process{dir: filepath.Join(s.dir, "pair", fmt.Sprint(i))}
		options := fmt.Sprintf("server_name: n%d\ncluster {\n  name: C\n  listen: \"127.0.0.1:%d\"\n  routes: [ \"nats://127.0.0.1:%d\" ]\n}\n",
			i, port, ports[1-i])
		if err := s.pair[i].start(program, options); err != nil {
			return err
		}
	}
	return nil
}

// stopAll ends the server and its cluster.
func (s *server) stopAll() error {
	err := s.stop()
	for _, p := range s.pair {
		if p != nil {
			err = errors.Join(err, p.stop())
		}
	}
	return err
}

func (p *process) start(program, options string) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	port, err := cluster.FreePort()
	if err != nil {
		return err
	}
	p.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	conf := filepath.Join(p.dir, "server.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "listen: %q\n%s", p.Addr, options), 0o644); err != nil {
		return err
	}
	p.Program, p.Args, p.Log = program, []string{"-c", conf}, &cluster.Log{}
	return p.Start()
}

// stop ends the process: politely, then not.
func (p *process) stop() error {
	if !p.Running() {
		return nil
	}
	if err := p.Stop(); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}
