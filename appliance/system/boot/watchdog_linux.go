package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchdogPath = "/dev/watchdog"

	// watchdogTimeout is after how many seconds without food the hardware resets the machine.
	watchdogTimeout = 60
	feedEvery       = 10 * time.Second
)

// watchdog is the hardware that resets a machine whose init stands still: a version that hangs is a
// try of the boot loader then, not the end.
type watchdog struct {
	f    *os.File
	name string
}

// openWatchdog starts the watchdog; nil when there is none.
func openWatchdog(logger *slog.Logger) *watchdog {
	f, err := os.OpenFile(watchdogPath, os.O_WRONLY, 0)
	if err != nil {
		return nil
	}
	w := &watchdog{f: f, name: "hardware"}
	// WDIOC_SETTIMEOUT takes what the hardware can do and says what that is.
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogTimeout); err != nil {
		logger.Warn("the time of the watchdog cannot be set, its own is used", "cause", err)
	}
	if b, err := os.ReadFile("/sys/class/watchdog/watchdog0/identity"); err == nil && len(b) > 1 {
		w.name = string(b[:len(b)-1])
	}
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT); err == nil {
		w.name = fmt.Sprintf("%s, %d s", w.name, n)
	}
	return w
}

// feed feeds the watchdog while the box is alive, until ctx ends.
func (w *watchdog) feed(ctx context.Context, l *liveness, logger *slog.Logger) {
	tick := time.NewTicker(feedEvery)
	defer tick.Stop()
	for {
		if l.alive(time.Now()) {
			if _, err := w.f.Write([]byte{0}); err != nil {
				logger.Warn("the watchdog cannot be fed", "cause", err)
			}
		} else {
			logger.Error("the box stands still and is reset by its watchdog soon")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// disarm stops the watchdog: a box that is switched off is not to be started again by it.
func (w *watchdog) disarm() {
	// 'V' is the magic that lets closing stop it (Linux Documentation/watchdog/watchdog-api.rst).
	if _, err := w.f.Write([]byte{'V'}); err == nil {
		w.f.Close()
	}
}
