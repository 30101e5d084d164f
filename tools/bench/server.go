package main

import (
	"bufio"
	"context"
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

// server is one running server of the comparison.
type server struct {
	name string
	dir  string
	port int

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd ended
}

func (s *server) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }

// start runs the three servers. On an error those that run are returned with it.
func (b *bench) start(ctx context.Context, dir string) ([]*server, error) {
	programs := []struct{ path, options string }{
		{b.millraced, ""},
		{b.natsServer, "sync_interval: always"},
		{b.natsServer, ""},
	}
	var servers []*server
	for i, p := range programs {
		s := &server{name: serverNames[i], dir: filepath.Join(dir, fmt.Sprint(i))}
		if err := os.Mkdir(s.dir, 0o755); err != nil {
			return servers, err
		}
		if err := s.start(ctx, p.path, p.options); err != nil {
			return servers, fmt.Errorf("start %s: %w", s.name, err)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

const startTimeout = 20 * time.Second

func (s *server) start(ctx context.Context, program, options string) error {
	var err error
	if s.port, err = freePort(); err != nil {
		return err
	}
	conf := filepath.Join(s.dir, "server.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:%d\"\njetstream {\n  store_dir: %q\n  %s\n}\n", s.port, filepath.Join(s.dir, "store"), options)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	logPath := filepath.Join(s.dir, "server.log")
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(program, "-c", conf)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan struct{})
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	deadline := time.After(startTimeout)
	for {
		if s.greets() {
			return nil
		}
		select {
		case <-s.exited:
			text, _ := os.ReadFile(logPath)
			return fmt.Errorf("ended with %v:\n%s", s.cmd.ProcessState, text)
		case <-deadline:
			return fmt.Errorf("no answer on port %d after %s: %w", s.port, startTimeout, s.stop())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), s.stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// greets reports whether the server sends its INFO line.
func (s *server) greets() bool {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", s.port), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(line, "INFO ")
}

// stop ends the process: politely, then not.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		<-s.exited
		return nil
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(startTimeout):
	}
	s.cmd.Process.Kill()
	<-s.exited
	return fmt.Errorf("%s did not stop after %s and was killed", s.name, startTimeout)
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
