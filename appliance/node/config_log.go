package node

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"
)

// NewLogger opens the log that l asks for: lines of key=value pairs.
func NewLogger(l LogSettings) (*slog.Logger, error) {
	out := os.Stderr
	if l.File != "" {
		f, err := os.OpenFile(l.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, fmt.Errorf("open log_file: %w", err)
		}
		out = f
	}
	return slog.New(slog.NewTextHandler(out, l.handlerOptions())), nil
}

func (l LogSettings) handlerOptions() *slog.HandlerOptions {
	level := slog.LevelInfo
	if l.Debug {
		level = slog.LevelDebug
	}
	return &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) != 0 {
			return a
		}
		if a.Key != slog.TimeKey {
			return a
		}
		if !l.Time {
			return slog.Attr{}
		}
		if t, ok := a.Value.Any().(time.Time); ok && l.UTC {
			return slog.Time(a.Key, t.UTC())
		}
		return a
	}}
}

// Version is the version of this build, as the module system or the version control knows it:
// "v1.2.3", "v0.0.0-20260102150405-abcdef123456", or "devel" without either.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}
