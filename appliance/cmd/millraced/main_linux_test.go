package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain runs the command itself when a test starts this binary again.
func TestMain(m *testing.M) {
	if args := os.Getenv("MILLRACED_TEST_ARGS"); args != "" {
		os.Exit(run(strings.Split(args, "\n")))
	}
	os.Exit(m.Run())
}

// command is a running millraced.
type command struct {
	cmd  *exec.Cmd
	log  *bufio.Reader
	addr string
}

// startCommand starts millraced on a free port and a fresh store, and waits until it is ready.
func startCommand(t *testing.T) *command {
	t.Helper()
	dir := t.TempDir()
	conf := dir + "/millraced.conf"
	text := fmt.Sprintf("listen: 127.0.0.1:-1\njetstream { store_dir: %q }\n", dir+"/store")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &command{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), "MILLRACED_TEST_ARGS=-c\n"+conf)
	out, err := c.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(time.Minute, func() { c.cmd.Process.Kill() })
	t.Cleanup(func() { guard.Stop(); c.cmd.Process.Kill() })
	c.log = bufio.NewReader(out)
	c.addr = c.logged(t, regexp.MustCompile(`msg=ready url=nats://(\S+)`))[1]
	return c
}

// logged waits for a line of the log.
func (c *command) logged(t *testing.T, want *regexp.Regexp) []string {
	t.Helper()
	for {
		line, err := c.log.ReadString('\n')
		if m := want.FindStringSubmatch(line); m != nil {
			return m
		}
		if err != nil {
			t.Fatalf("the log ended without %q: %v", want, err)
		}
	}
}

// exit waits for the end of the process.
func (c *command) exit(t *testing.T) (code int) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c.log); err != nil {
		t.Error(err)
	}
	if err := c.cmd.Wait(); err != nil && c.cmd.ProcessState.ExitCode() < 0 {
		t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode()
}

func TestExitsOnSignal(t *testing.T) {
	c := startCommand(t)
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := c.exit(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

// After a failed write the process says why and ends, whatever else hangs then.
func TestExitsWhenTheStoreFails(t *testing.T) {
	c := startCommand(t)
	if err := unix.Prlimit(c.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1, Max: 1}, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", c.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"name":"S","subjects":["s"]}`
	if _, err := fmt.Fprintf(conn, "CONNECT {}\r\nPUB $JS.API.STREAM.CREATE.S %d\r\n%s\r\n", len(body), body); err != nil {
		t.Fatal(err)
	}
	c.logged(t, regexp.MustCompile(`level=ERROR msg="cannot go on" err=.*file too large`))
	begin := time.Now()
	if code := c.exit(t); code != 1 {
		t.Errorf("exit code %d after a failed write, want 1", code)
	}
	if took := time.Since(begin); took > fatalTime+5*time.Second {
		t.Errorf("the end took %s", took)
	}
}
