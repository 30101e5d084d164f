package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// consoleHandler prints log records as "millrace: text, key value" for people at the console. Every
// record is one write, so that kernel messages do not split it.
type consoleHandler struct {
	mu    *sync.Mutex
	w     io.Writer
	attrs []slog.Attr
}

func newConsoleHandler(w io.Writer) *consoleHandler {
	return &consoleHandler{mu: new(sync.Mutex), w: w}
}

// Enabled implements slog.Handler.
func (h *consoleHandler) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo
}

// Handle implements slog.Handler.
func (h *consoleHandler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	b.WriteString("millrace: ")
	if r.Level >= slog.LevelError {
		b.WriteString("ERROR: ")
	} else if r.Level >= slog.LevelWarn {
		b.WriteString("WARNING: ")
	}
	b.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		// A value may be the output of a program.
		value := strings.ReplaceAll(strings.TrimSpace(a.Value.String()), "\n", "\n    ")
		fmt.Fprintf(&b, ", %s %s", a.Key, value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (h *consoleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(append([]slog.Attr(nil), h.attrs...), attrs...)
	return &c
}

// WithGroup implements slog.Handler; groups are not shown.
func (h *consoleHandler) WithGroup(string) slog.Handler {
	return h
}
