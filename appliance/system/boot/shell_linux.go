package boot

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// shellPath is a shell, which the debug variant of an image has and no other.
const shellPath = "/bin/sh"

// shellPause is how long a shell that has ended is away.
const shellPause = time.Second

// hasShell reports whether this is the debug variant.
func hasShell() bool {
	_, err := os.Stat(shellPath)
	return err == nil
}

// startShell gives a shell to whoever sits at the console, if the image has one. It does so before
// anything that may fail: that is what it is for.
func (b *systemBox) startShell(ctx context.Context) {
	if !hasShell() {
		return
	}
	b.warn("this is a debug image: who reaches the console has a shell")
	b.wg.Go(func() {
		for ctx.Err() == nil {
			if err := b.shell(ctx); err != nil {
				b.logger.Warn("shell ended", "cause", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(shellPause):
			}
		}
	})
}

// shell runs one shell on the console until it or ctx ends.
func (b *systemBox) shell(ctx context.Context) error {
	tty, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	defer tty.Close()
	pid, done, err := b.reaper.startWith(shellPath, nil, []string{"PATH=/bin:/sbin", "HOME=/tmp", "TERM=linux"},
		tty, tty, &syscall.SysProcAttr{Setsid: true, Setctty: true})
	if err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		signalChild(pid, syscall.SIGKILL)
		<-done
	}
	return nil
}
