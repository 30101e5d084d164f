package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Input events (Linux include/uapi/linux/input-event-codes.h).
const (
	inputEventSize = 24 // on 64-bit machines: two 8-byte times, type, code, value
	eventKey       = 1
	keyPower       = 116
)

// request is what ends the box's run.
type request struct {
	reboot bool
	cause  string
}

// powerRequests calls send when somebody wants the box off (power button, SIGTERM) or started anew
// (SIGINT, which Ctrl-Alt-Del becomes).
func powerRequests(ctx context.Context, wg *sync.WaitGroup, send func(request), logger *slog.Logger) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	// Without this the kernel reboots at once on Ctrl-Alt-Del, nothing stopped, nothing synced.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		logger.Warn("Ctrl-Alt-Del will reboot at once", "cause", err)
	}
	wg.Go(func() {
		defer signal.Stop(signals)
		select {
		case s := <-signals:
			send(request{reboot: s == unix.SIGINT, cause: "signal " + s.String()})
		case <-ctx.Done():
		}
	})
	inputs, err := filepath.Glob("/dev/input/event*")
	if err != nil || len(inputs) == 0 {
		logger.Warn("no power button found")
	}
	for _, path := range inputs {
		f, err := os.Open(path)
		if err != nil {
			logger.Warn("power button cannot be read", "cause", err)
			continue
		}
		stop := context.AfterFunc(ctx, func() { f.Close() })
		wg.Go(func() {
			defer stop()
			if err := waitPowerKey(f); err == nil {
				send(request{cause: "power button"})
			} else if !errors.Is(err, fs.ErrClosed) {
				logger.Warn("power button cannot be read", "cause", err)
			}
		})
	}
}

// waitPowerKey reads input events until the power key is pressed.
func waitPowerKey(r io.Reader) error {
	b := make([]byte, inputEventSize)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		if isPowerKey(b) {
			return nil
		}
	}
}

// isPowerKey reports whether an input event is the power key going down.
func isPowerKey(event []byte) bool {
	le := binary.NativeEndian
	return le.Uint16(event[16:]) == eventKey && le.Uint16(event[18:]) == keyPower && le.Uint32(event[20:]) == 1
}

// powerOff ends the box: all other processes, the log, the disks, the power. It returns only with an
// error.
func (b *systemBox) powerOff(reboot bool) error {
	if os.Getpid() != 1 {
		return errors.New("power off: this process is not PID 1 of a box")
	}
	// Whatever is left keeps the disk busy. The error says that nothing is.
	_ = unix.Kill(-1, unix.SIGKILL)
	b.log.Close() // the last of what keeps the state partition busy
	unix.Sync()
	for _, dir := range slices.Backward(b.mounts) {
		if err := unmount(dir); err != nil {
			b.logger.Warn("disk could not be unmounted cleanly; it is checked at the next boot", "mounted at", dir, "cause", err)
		}
	}
	unix.Sync()
	b.console.flush(flushTime)
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	} else if b.watchdog != nil {
		b.watchdog.disarm()
	}
	if err := unix.Reboot(cmd); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	return errors.New("power off had no effect")
}

// unmount takes the file system off, waiting for killed processes to let go of it.
func unmount(dir string) error {
	const tries = 20
	for i := 0; ; i++ {
		err := unix.Unmount(dir, 0)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		if i == tries {
			// Read-only is as clean: everything is written, the journal is empty.
			return errors.Join(err, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}
		time.Sleep(100 * time.Millisecond)
	}
}
