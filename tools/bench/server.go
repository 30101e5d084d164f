package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
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
	dir  string
	port int

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd ended
}

func (p *process) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", p.port) }

// start runs the servers. On an error those that run are returned with it.
func (b *bench) start(ctx context.Context, dir string) ([]*server, error) {
	programs := []struct{ path, options string }{
		{b.millraced, ""},
		{b.natsServer, "sync_interval: always"},
		{b.natsServer, ""},
	}
	var servers []*server
	for i, p := range programs {
		s := &server{process: process{dir: filepath.Join(dir, fmt.Sprint(i))}, name: serverNames[i]}
		servers = append(servers, s)
		options := fmt.Sprintf("jetstream {\n  store_dir: %q\n  %s\n}\n", filepath.Join(s.dir, "store"), p.options)
		if err := s.start(ctx, p.path, options); err != nil {
			return servers, fmt.Errorf("start %s: %w", s.name, err)
		}
		if err := s.startPair(ctx, p.path); err != nil {
			return servers, fmt.Errorf("start the cluster of %s: %w", s.name, err)
		}
	}
	return servers, nil
}

// startPair runs the two servers of the cluster. They are connected a moment later.
func (s *server) startPair(ctx context.Context, program string) error {
	var ports [2]int
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return err
		}
	}
	for i, port := range ports {
		s.pair[i] = &process{dir: filepath.Join(s.dir, "pair", fmt.Sprint(i))}
		options := fmt.Sprintf("server_name: n%d\ncluster {\n  name: C\n  listen: \"127.0.0.1:%d\"\n  routes: [ \"nats://127.0.0.1:%d\" ]\n}\n",
			i, port, ports[1-i])
		if err := s.pair[i].start(ctx, program, options); err != nil {
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

const startTimeout = 20 * time.Second

func (p *process) start(ctx context.Context, program, options string) error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	var err error
	if p.port, err = freePort(); err != nil {
		return err
	}
	conf := filepath.Join(p.dir, "server.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:%d\"\n%s", p.port, options)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	logPath := filepath.Join(p.dir, "server.log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(program, "-c", conf)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.exited = make(chan struct{})
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	deadline := time.After(startTimeout)
	for {
		if p.greets() {
			return nil
		}
		select {
		case <-p.exited:
			text, _ := os.ReadFile(logPath)
			return fmt.Errorf("ended with %v:\n%s", p.cmd.ProcessState, text)
		case <-deadline:
			return fmt.Errorf("no answer on port %d after %s: %w", p.port, startTimeout, p.stop())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), p.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// greets reports whether the server sends its INFO line.
func (p *process) greets() bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", p.port), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(line, "INFO ")
}

// stop ends the process: politely, then not.
func (p *process) stop() error {
	if p.exited == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		<-p.exited
		return nil
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(startTimeout):
	}
	p.cmd.Process.Kill()
	<-p.exited
	return fmt.Errorf("the server in %s did not stop after %s and was killed", p.dir, startTimeout)
}

// freePort returns a TCP port below those that the kernel gives to outgoing connections.
func freePort() (int, error) {
	for range 100 {
		port := 10000 + rand.IntN(20000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port between 10000 and 30000")
}
