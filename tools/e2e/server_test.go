package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// startTimeout bounds everything that a server does at start and stop; machines of the tests are slow.
const startTimeout = 30 * time.Second

// server is one process under test with its folder.
type server struct {
	t       testing.TB
	program string // serverPath, or its peer in a comparison
	conf    string
	port    int
	log     *logBuffer

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd ended, after which cmd.ProcessState is set
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
	s := &server{t: t, program: serverPath, conf: filepath.Join(dir, "server.conf"), port: freePort(t), log: &logBuffer{}}
	t.Cleanup(func() {
		if s.running() {
			s.kill()
		}
		if strings.Contains(s.log.tail(-1), "DATA RACE") {
			t.Error("the race detector found something in the server")
		}
		if t.Failed() {
			t.Logf("log of the server on port %d:\n%s", s.port, s.log.tail(100))
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
	cmd := exec.Command(s.program, append([]string{"-c", s.conf}, args...)...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.program, err)
	}
	timer := time.AfterFunc(startTimeout, func() { cmd.Process.Kill() })
	defer timer.Stop()
	cmd.Wait()
	return s.log.tail(100), cmd.ProcessState.ExitCode()
}

// startServer is newServer and start.
func startServer(t testing.TB, lines ...string) *server {
	t.Helper()
	s := newServer(t, lines...)
	s.start()
	return s
}

// freePort returns a TCP port below the range from which the kernel takes the ports of outgoing
// connections: a client that dials a dead server's port from that range can connect to itself.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("no free port")
	return 0
}

func (s *server) url() string  { return fmt.Sprintf("nats://127.0.0.1:%d", s.port) }
func (s *server) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// start runs the process and returns when it greets a client.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.program, "-c", s.conf)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.program, err)
	}
	exited := make(chan struct{})
	s.exited = exited
	go func() {
		s.cmd.Wait()
		close(exited)
	}()
	deadline := time.Now().Add(startTimeout)
	for !s.answers() {
		if !s.running() {
			s.t.Fatalf("server ended at start: %v\n%s", s.cmd.ProcessState, s.log.tail(50))
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("server does not answer after %s\n%s", startTimeout, s.log.tail(50))
		}
		poll()
	}
}

// poll waits a moment between two looks at a condition of another process.
func poll() { <-time.After(10 * time.Millisecond) }

// answers reports whether a client gets the INFO line.
func (s *server) answers() bool {
	conn, err := net.DialTimeout("tcp", s.addr(), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(conn)
	if info, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(info, "INFO ") {
		return false
	}
	return true
}

func (s *server) running() bool {
	if s.exited == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// kill ends the process as a power cut would end it, but for the page cache.
func (s *server) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatalf("kill server: %v", err)
	}
	<-s.exited
}

// signal sends sig and returns the exit code of the process.
func (s *server) signal(sig syscall.Signal) int {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("signal server: %v", err)
	}
	select {
	case <-s.exited:
	case <-time.After(startTimeout):
		s.t.Fatalf("server runs %s after %s\n%s", startTimeout, sig, s.log.tail(50))
	}
	return s.cmd.ProcessState.ExitCode()
}

// stop ends the process cleanly.
func (s *server) stop() {
	s.t.Helper()
	if code := s.signal(syscall.SIGTERM); code != 0 {
		// nats-server ends with 1 after SIGTERM.
		if isMillraced() || code != 1 {
			s.t.Fatalf("exit code %d after SIGTERM\n%s", code, s.log.tail(50))
		}
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
		s.t.Fatalf("connect: %v\n%s", err, s.log.tail(20))
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

// logBuffer collects the output of a process.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// tail returns the last n lines, all for a negative n.
func (l *logBuffer) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.SplitAfter(l.buf.String(), "\n")
	if n < 0 {
		n = len(lines)
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
