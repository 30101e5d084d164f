package boot

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	readyEvery   = 50 * time.Millisecond
	readyTimeout = 2 * time.Second
)

// waitReady waits until a NATS server at addr greets with its INFO line, or ctx ends.
func waitReady(ctx context.Context, addr string) error {
	for {
		err := greets(ctx, addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for millraced at %s: %w; last try: %w", addr, ctx.Err(), err)
		case <-time.After(readyEvery):
		}
	}
}

// greets connects once and reads the greeting.
func greets(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: readyTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadSlice('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(line), "INFO {") {
		return fmt.Errorf("greeting %.40q is not INFO", line)
	}
	return nil
}
