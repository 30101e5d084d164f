package node

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLogSettings(t *testing.T) {
	tests := []struct {
		settings LogSettings
		want     string
	}{
		{LogSettings{}, "level=INFO msg=i\n"},
		{LogSettings{Debug: true}, "level=DEBUG msg=d\nlevel=INFO msg=i\n"},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, tt.settings.handlerOptions()))
		log.Debug("d")
		log.Info("i")
		if out.String() != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.settings, out.String(), tt.want)
		}
	}
}

func TestLogTimeInUTC(t *testing.T) {
	var out bytes.Buffer
	h := slog.NewTextHandler(&out, LogSettings{Time: true, UTC: true}.handlerOptions())
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("east", 3600))
	if err := h.Handle(context.Background(), slog.NewRecord(at, slog.LevelInfo, "m", 0)); err != nil {
		t.Fatal(err)
	}
	if want := "time=2026-03-01T11:00:00.000Z"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("got %q, want %s…", out.String(), want)
	}
}

func TestNewLoggerAppendsToFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n.log")
	for _, line := range []string{"one", "two"} {
		log, err := NewLogger(LogSettings{File: path})
		if err != nil {
			t.Fatal(err)
		}
		log.Info(line)
	}
	data, err := os.ReadFile(path)
	if want := "level=INFO msg=one\nlevel=INFO msg=two\n"; err != nil || string(data) != want {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := NewLogger(LogSettings{File: filepath.Join(path, "x")}); err == nil {
		t.Error("a file as a folder was accepted")
	}
}
