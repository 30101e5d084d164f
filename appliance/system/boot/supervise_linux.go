package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// stopTimeout is how long millraced has to end after SIGTERM.
	stopTimeout = 20 * time.Second

	// slowStart is how long millraced may take to answer before that is worth a warning; reading a
	// large store back takes time.
	slowStart = 60 * time.Second
)

// supervisor runs one program, again whenever it ends.
type supervisor struct {
	reaper  *reaper
	path    string
	args    []string
	env     []string
	console io.Writer // gets its output as far as people can read it
	log     io.Writer // gets all of its output
	addr    string    // where it answers when it is ready
	ready   func()    // called each time it has become ready
	ended   func()    // called each time it has ended by itself
	logger  *slog.Logger

	mu      sync.Mutex
	pid     int // 0: it does not run
	started time.Time
}

// process returns when the running process was started; the zero time: none runs.
func (s *supervisor) process() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 {
		return time.Time{}
	}
	return s.started
}

// signal sends a signal to the process that was started then, if it still runs.
func (s *supervisor) signal(started time.Time, sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid != 0 && s.started.Equal(started) {
		signalChild(s.pid, sig)
	}
}

// running notes which process runs, 0 for none.
func (s *supervisor) running(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.started = pid, time.Now()
}

// run keeps the program running until ctx ends, then stops it and returns.
func (s *supervisor) run(ctx context.Context) {
	wait := backoff{first: 500 * time.Millisecond, most: 30 * time.Second, steady: time.Minute}
	for {
		started := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		s.ended()
		pause := wait.next(time.Since(started))
		s.logger.Error("millraced ended, starting it again", "cause", err, "in", pause.String())
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// once runs the program until it ends, by itself or because ctx did.
func (s *supervisor) once(ctx context.Context) error {
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer pr.Close()
		l := limiter{rate: linesSecond, burst: linesBurst}
		if err := copyLines(s.console, s.log, pr, &l, time.Now); err != nil {
			s.logger.Warn("millraced's output is lost", "cause", err)
		}
	})
	var pid int
	var done <-chan syscall.WaitStatus
	s.ahead(func() { pid, done, err = s.reaper.start(s.path, s.args, s.env, pw) })
	pw.Close()
	if err != nil {
		return err
	}
	s.running(pid)
	defer s.running(0)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { s.watch(watching) })
	select {
	case status := <-done:
		return statusError(status)
	case <-ctx.Done():
	}
	signalChild(pid, unix.SIGTERM)
	select {
	case status := <-done:
		return statusError(status)
	case <-time.After(stopTimeout):
	}
	s.logger.Warn("millraced does not stop, killing it", "waited", stopTimeout.String())
	signalChild(pid, unix.SIGKILL)
	return statusError(<-done)
}

// niceness is that of millraced. Init is at 0: when it takes an update in, checks an image or writes one, a box with a small
// processor goes on with its streams meanwhile, and its leaders answer in time. Init gets a quarter all the same.
const niceness = -5

// ahead calls fn, and gives processes that it starts the processor before others.
func (s *supervisor) ahead(fn func()) {
	// In Linux priorities are those of threads, and a process begins with that of the one that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
		s.logger.Warn("millraced runs with the priority of all", "cause", err)
	}
	fn()
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 0); err != nil {
		s.logger.Warn("a thread of init keeps its priority", "cause", err)
	}
}

// watch reports when the program answers.
func (s *supervisor) watch(ctx context.Context) {
	slow, stop := context.WithTimeout(ctx, slowStart)
	defer stop()
	err := waitReady(slow, s.addr)
	if err != nil && errors.Is(slow.Err(), context.DeadlineExceeded) {
		s.logger.Warn("millraced runs but does not answer yet", "cause", err)
		err = waitReady(ctx, s.addr)
	}
	if err == nil {
		s.ready()
	}
}

// statusError says how a program ended; nil when it ended by itself without complaint.
func statusError(w syscall.WaitStatus) error {
	switch {
	case w.Signaled():
		return fmt.Errorf("ended by signal %s", w.Signal())
	case w.ExitStatus() != 0:
		return fmt.Errorf("exit code %d", w.ExitStatus())
	}
	return errors.New("exit code 0")
}
