package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/tools/cluster"
)

// startTimeout bounds everything that a server does at start and stop; machines of the tests are slow.
const startTimeout = cluster.StartTimeout

// server is one process under test with its folder.
type server struct {
	*cluster.Process
	t    testing.TB
	conf string
	port int
}

// newServer writes a configuration: a free loopback port, streams in a folder of the test, and the
// given lines. It does not start the process.
func newServer(t testing.TB, lines ...string) *server {
	t.Helper()
	s := newProcess(t)
	s.writeConf(fmt.Sprintf("listen: \"127.0.0.1:%d\"\nserver_name: e2e\njetstream { store_dir: %q, sync_interval: always }\n%s\n",
		s.port, s.store(), strings.Join(lines, "\n")))
	return s
}

// newProcess returns the server under test without a configuration.
func newProcess(t testing.TB) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{t: t, conf: filepath.Join(dir, "server.conf"), port: freePort(t)}
	s.Process = &cluster.Process{
		Program: serverPath, Args: []string{"-c", s.conf}, Addr: fmt.Sprintf("127.0.0.1:%d", s.port), Log: &cluster.Log{},
	}
	t.Cleanup(func() {
		if s.Running() {
			s.kill()
		}
		if strings.Contains(s.Log.Tail(-1), "DATA RACE") {
			t.Error("the race detector found something in the server")
		}
		if t.Failed() {
			t.Logf("log of the server on port %d:\n%s", s.port, s.Log.Tail(100))
		}
	})
	return s
}

// store is the folder of the streams.
func (s *server) store() string { return filepath.Join(filepath.Dir(s.conf), "store") }

// writeConf replaces the configuration.
func (s *server) writeConf(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.conf, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// runToEnd runs a process that is expected to end by itself; it returns its output and exit code.
func (s *server) runToEnd(args ...string) (string, int) {
	s.t.Helper()
	cmd := exec.Command(s.Program, append([]string{"-c", s.conf}, args...)...)
	cmd.Stdout, cmd.Stderr = s.Log, s.Log
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.Program, err)
	}
	timer := time.AfterFunc(startTimeout, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	return s.Log.Tail(100), cmd.ProcessState.ExitCode()
}

// startServer is newServer and start.
func startServer(t testing.TB, lines ...string) *server {
	t.Helper()
	s := newServer(t, lines...)
	s.start()
	return s
}

// freePort returns a TCP port of loopback that is free.
func freePort(t testing.TB) int {
	t.Helper()
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (s *server) url() string { return "nats://" + s.Addr }

// start runs the process and returns when it greets a client.
func (s *server) start() {
	s.t.Helper()
	if err := s.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// poll waits a moment between two looks at a condition of another process.
func poll() { cluster.Poll() }

// running reports whether the process was started and has not ended.
func (s *server) running() bool { return s.Running() }

// kill ends the process as a power cut would end it, but for the page cache.
func (s *server) kill() {
	s.t.Helper()
	if err := s.Kill(); err != nil {
		s.t.Fatal(err)
	}
}

// signal sends sig and returns the exit code of the process.
func (s *server) signal(sig syscall.Signal) int {
	s.t.Helper()
	code, err := s.End(sig)
	if err != nil {
		s.t.Fatal(err)
	}
	return code
}

// stop ends the process cleanly.
func (s *server) stop() {
	s.t.Helper()
	if err := s.Stop(); err != nil {
		s.t.Fatal(err)
	}
}

// connect returns a client that reconnects for as long as the test runs.
func (s *server) connect(opts ...nats.Option) *nats.Conn {
	s.t.Helper()
	opts = append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), nats.ReconnectJitter(10*time.Millisecond, 0),
		nats.Timeout(10 * time.Second),
	}, opts...)
	nc, err := nats.Connect(s.url(), opts...)
	if err != nil {
		s.t.Fatalf("connect: %v\n%s", err, s.Log.Tail(20))
	}
	s.t.Cleanup(nc.Close)
	return nc
}

// jetstream is connect with the stream client on top.
func (s *server) jetstream(opts ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc := s.connect(opts...)
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	return nc, js
}

// waitFor looks at a condition until it holds.
func waitFor(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s: no %s", limit, what)
		}
		poll()
	}
}
