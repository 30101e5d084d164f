package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// StartTimeout bounds what a process does at start and stop; machines of the tests are slow.
const StartTimeout = 30 * time.Second

// Process is one server process. Its methods are for one goroutine at a time, but for Running.
type Process struct {
	Program string
	Args    []string
	Addr    string // host:port of its clients
	Log     *Log   // standard output and error of all its runs

	host   *Host // whose network it is in; nil: ours
	paused bool

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd ended, after which cmd.ProcessState is set
	wg     sync.WaitGroup
}

// Launch starts the process in a process group of its own: a ^C at the terminal is not for it. It ends
// with the process that launched it.
func (p *Process) Launch() error {
	if p.Running() {
		return fmt.Errorf("start %s: it is running", p.Program)
	}
	cmd := exec.Command(p.Program, p.Args...)
	cmd.Stdout, cmd.Stderr = p.Log, p.Log
	cmd.SysProcAttr = attributes()
	start := cmd.Start
	if p.host != nil {
		start = func() error { return p.host.do(cmd.Start) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Program, err)
	}
	exited := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.exited, p.paused = cmd, exited, false
	p.mu.Unlock()
	p.wg.Go(func() {
		cmd.Wait()
		close(exited)
	})
	return nil
}

// Start is Launch, and returns when the process greets a client.
func (p *Process) Start() error {
	if err := p.Launch(); err != nil {
		return err
	}
	return p.WaitGreeting(StartTimeout)
}

// WaitGreeting returns when the process greets a client, or an error that has the end of its log when it
// ended or did not within limit.
func (p *Process) WaitGreeting(limit time.Duration) error {
	for deadline := time.Now().Add(limit); !p.Greets(); Poll() {
		if !p.Running() {
			return fmt.Errorf("%s ended at its start: %v\n%s", p.Program, p.cmd.ProcessState, p.Log.Tail(50))
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer at %s after %s\n%s", p.Program, p.Addr, limit, p.Log.Tail(50))
		}
	}
	return nil
}

// Greets reports whether a client gets the INFO line.
func (p *Process) Greets() bool {
	conn, err := p.dial("tcp", p.Addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	info, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(info, "INFO ")
}

func (p *Process) dial(network, addr string) (net.Conn, error) {
	if p.host != nil {
		return p.host.network.Dial(network, addr)
	}
	return net.DialTimeout(network, addr, time.Second)
}

// Running reports whether the process was started and has not ended.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// PID is the process id of the last run.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the run that was last started has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitCode is that of the last run, which has ended.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Kill ends the process as a power cut would end it, but for the page cache. One that has ended is left
// as it is.
func (p *Process) Kill() error {
	if p.exited == nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Program, err)
	}
	<-p.exited
	return nil
}

// Pause stops the process in the middle of what it does; Resume lets it go on.
func (p *Process) Pause() error {
	p.paused = true
	return p.cmd.Process.Signal(syscall.SIGSTOP)
}

// Resume lets a paused process go on.
func (p *Process) Resume() error {
	p.paused = false
	return p.cmd.Process.Signal(syscall.SIGCONT)
}

// Paused reports whether the process was paused and not resumed or started since.
func (p *Process) Paused() bool { return p.paused && p.Running() }

// End sends sig and returns the exit code of the process.
func (p *Process) End(sig os.Signal) (int, error) {
	if err := p.cmd.Process.Signal(sig); err != nil {
		return 0, fmt.Errorf("signal %s: %w", p.Program, err)
	}
	select {
	case <-p.exited:
		return p.ExitCode(), nil
	case <-time.After(StartTimeout):
		return 0, fmt.Errorf("%s runs %s after signal %s\n%s", p.Program, StartTimeout, sig, p.Log.Tail(50))
	}
}

// Stop ends the process by SIGTERM. An exit code other than 0 is an error, but 1 is how nats-server ends.
func (p *Process) Stop() error {
	code, err := p.End(syscall.SIGTERM)
	if err == nil && code != 0 && (code != 1 || IsMillraced(p.Program)) {
		err = fmt.Errorf("exit code %d of %s after SIGTERM\n%s", code, p.Program, p.Log.Tail(50))
	}
	return err
}

// FreePort returns a TCP port of 127.0.0.1 below the range from which the kernel takes the ports of
// outgoing connections: a client that dials a dead server's port from that range can connect to itself.
func FreePort() (int, error) {
	for range 100 {
		port := 10000 + rand.IntN(20000)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port between 10000 and 30000")
}

// givenPorts are those that FreePort has returned: a port is not bound as soon as it is given.
var givenPorts sync.Map

// Poll waits a moment between two looks at a condition of another process.
func Poll() { <-time.After(10 * time.Millisecond) }
