package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxOutput bounds what run keeps of a program's output, in bytes.
const maxOutput = 64 << 10

// reaper starts child processes and collects every process that ends: as PID 1 we inherit the
// orphans of others, and os/exec's Wait would compete with collecting those.
type reaper struct {
	wg   sync.WaitGroup
	stop context.CancelFunc

	mu      sync.Mutex
	waiting map[int]chan<- syscall.WaitStatus
}

// startReaper collects processes until Close.
func startReaper() *reaper {
	ctx, stop := context.WithCancel(context.Background())
	r := &reaper{stop: stop, waiting: make(map[int]chan<- syscall.WaitStatus)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	r.wg.Go(func() {
		defer signal.Stop(ended)
		for {
			r.collect()
			select {
			case <-ended: // one signal may stand for several processes
			case <-ctx.Done():
				return
			}
		}
	})
	return r
}

// Close stops collecting.
func (r *reaper) Close() {
	r.stop()
	r.wg.Wait()
}

// collect takes all processes that have ended.
func (r *reaper) collect() {
	for {
		// Held meanwhile, so that a child cannot end between its start and its entry in waiting.
		r.mu.Lock()
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		done, ours := r.waiting[pid]
		delete(r.waiting, pid)
		r.mu.Unlock()
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid <= 0:
			return
		case ours:
			done <- syscall.WaitStatus(status) // has room
		}
	}
}

// start starts a program with output on out; the channel gets its status once it has ended.
func (r *reaper) start(path string, args, env []string, out *os.File) (pid int, done <-chan syscall.WaitStatus, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	return r.startWith(path, args, env, null, out, nil)
}

// startWith is start with an input and what else the kernel is to do.
func (r *reaper) startWith(path string, args, env []string, in, out *os.File, sys *syscall.SysProcAttr) (pid int, done <-chan syscall.WaitStatus, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := os.StartProcess(path, append([]string{path}, args...), &os.ProcAttr{
		Env: env, Files: []*os.File{in, out, out}, Sys: sys,
	})
	if err != nil {
		return 0, nil, err
	}
	pid = p.Pid // Release sets the field to -1, which kill takes for every process there is
	c := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = c
	return pid, c, p.Release()
}

// signalChild sends a signal to one child process. That it has ended already is no error.
func signalChild(pid int, s syscall.Signal) {
	if pid <= 1 {
		// 0 and -1 would reach whole groups of processes.
		panic(fmt.Sprintf("BUG: signal %s for process %d, which is no child", s, pid))
	}
	_ = unix.Kill(pid, s)
}

// run runs a program to its end and returns what it printed and its exit code.
func (r *reaper) run(ctx context.Context, path string, args ...string) (output string, code int, err error) {
	pr, pw, err := os.Pipe()
	if err != nil {
		return "", 0, err
	}
	defer pr.Close()
	pid, done, err := r.start(path, args, []string{"PATH=/sbin:/bin", "LC_ALL=C"}, pw)
	pw.Close()
	if err != nil {
		return "", 0, err
	}
	stop := context.AfterFunc(ctx, func() { signalChild(pid, unix.SIGKILL) })
	defer stop()
	var b bytes.Buffer
	_, readErr := io.Copy(&b, io.LimitReader(pr, maxOutput))
	_, drainErr := io.Copy(io.Discard, pr)
	status := <-done
	if err := errors.Join(readErr, drainErr); err != nil {
		return "", 0, fmt.Errorf("read output of %s: %w", path, err)
	}
	if !status.Exited() {
		return b.String(), 0, fmt.Errorf("%s was ended by signal %s: %s", path, status.Signal(), b.String())
	}
	return b.String(), status.ExitStatus(), nil
}
