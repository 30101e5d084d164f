package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

var (
	// ErrStalled is returned when the guest's kernel reports a processor that made no progress. The
	// emulator does that to about one boot in twenty with more than one processor.
	ErrStalled = errors.New("vm: guest processor stalled")

	// ErrNotServing is returned when the box says that it will not serve.
	ErrNotServing = errors.New("vm: box does not serve")

	// ErrEnded is returned when the machine ended while something was expected of it.
	ErrEnded = errors.New("vm: machine ended")
)

// ReadyText starts the console line by which a box says that it serves.
const ReadyText = "millrace: ready, "

// notServingText starts the console line by which a box says that it will not serve. Its cause follows.
const notServingText = "millrace: ERROR: not serving"

// stallTexts are what the Linux kernel prints of a processor that makes no progress.
var stallTexts = []string{"soft lockup", "self-detected stall on CPU"}

// Boot starts a machine and waits until the box says that it serves. A machine that stalls, or does
// not serve in Config.BootTimeout, is killed and started once more; that is logged as a warning,
// since it may also be a fault of the image.
func Boot(ctx context.Context, c Config) (*VM, error) {
	c = c.withDefaults()
	v, err := boot(ctx, c)
	if err == nil || ctx.Err() != nil || !(errors.Is(err, ErrStalled) || errors.Is(err, context.DeadlineExceeded)) {
		return v, err
	}
	c.Logger.Warn("boot stalled, trying once more", "cause", err)
	return boot(ctx, c)
}

func boot(ctx context.Context, c Config) (*VM, error) {
	v, err := Start(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.BootTimeout)
	defer cancel()
	if err := v.waitReady(ctx); err != nil {
		v.Kill()
		return nil, fmt.Errorf("boot: %w", err)
	}
	return v, nil
}

// waitReady waits until the box says that it serves, or that it will not.
func (v *VM) waitReady(ctx context.Context) error {
	found, err := v.waitConsole(ctx, ReadyText, notServingText)
	if err != nil || found == ReadyText {
		return err
	}
	cause, err := v.ConsoleLine(ctx, notServingText)
	return errors.Join(fmt.Errorf("%w%s", ErrNotServing, cause), err)
}

// WaitNATS waits until a NATS server answers at addr with its INFO line. A connect alone proves
// nothing: the emulator accepts before anything listens in the guest.
func WaitNATS(ctx context.Context, addr string) error {
	for {
		err := readInfo(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for a NATS server at %s: %w; last try: %w", addr, ctx.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// readInfo connects once and reads the INFO line.
func readInfo(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read INFO: %w", err)
	}
	info, ok := strings.CutPrefix(line, "INFO ")
	if !ok || !json.Valid([]byte(info)) {
		return fmt.Errorf("answer is no INFO line: %.60q", line)
	}
	return nil
}
