package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"millrace/appliance/boxapi"
	"millrace/appliance/boxlink"
)

// boxSocket is where millraced finds init. Nobody but root reaches it, and root is only us.
const boxSocket = "/run/millrace-box.sock"

// healthTimeout is how long millraced may take to say how it is.
const healthTimeout = 5 * time.Second

// daemonLink is the connection with millraced, which is there while millraced runs.
type daemonLink struct {
	answer func(ctx context.Context, verb string, data []byte) ([]byte, error)
	logger *slog.Logger
	l      net.Listener

	mu   sync.Mutex
	link *boxlink.Link // nil: millraced is not connected
}

// listenDaemon makes the socket; run serves it.
func listenDaemon(path string, answer func(context.Context, string, []byte) ([]byte, error), logger *slog.Logger) (*daemonLink, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for millraced: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for millraced: %w", err), l.Close())
	}
	return &daemonLink{answer: answer, logger: logger, l: l}, nil
}

// run accepts millraced, again each time it was started, until ctx ends.
func (d *daemonLink) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { d.l.Close() })
	defer stop()
	for {
		conn, err := d.l.Accept()
		if err != nil {
			if ctx.Err() == nil {
				d.logger.Error("millraced cannot reach the box", "cause", err)
			}
			return
		}
		link := boxlink.New(conn, boxlink.Config{Answer: d.answer})
		d.set(link)
		wg.Go(func() {
			_ = link.Run(ctx) // millraced has ended, which its supervisor tells
			d.clear(link)
		})
	}
}

func (d *daemonLink) set(l *boxlink.Link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link = l
}

// clear forgets a link that has ended, unless there is a newer one.
func (d *daemonLink) clear(l *boxlink.Link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.link == l {
		d.link = nil
	}
}

func (d *daemonLink) current() *boxlink.Link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.link
}

// send tells millraced something unasked.
func (d *daemonLink) send(verb string, data []byte) error {
	l := d.current()
	if l == nil {
		return boxlink.ErrClosed
	}
	return l.Send(verb, data)
}

// health asks millraced how it is. answered says that it is not silent, whatever it answers.
func (d *daemonLink) health(ctx context.Context) (h boxapi.Health, answered bool) {
	unavailable := func(why string) boxapi.Health { return boxapi.Health{Status: "unavailable", Error: why} }
	l := d.current()
	if l == nil {
		return unavailable("millraced does not run"), false
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	out, err := l.Call(ctx, "HEALTHZ", nil)
	if err != nil {
		return unavailable("millraced does not answer: " + err.Error()), false
	}
	if err := json.Unmarshal(out, &h); err != nil {
		return unavailable("millraced answers nonsense: " + err.Error()), true
	}
	return h, true
}
