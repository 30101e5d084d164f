package service

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"millrace/plugins/abi"
)

const (
	logRate  = 100 // lines a second that a plugin may log, and lines in a burst; the rest is counted
	logLines = 256 // lines kept for LOGS
)

// LogLine is a line that a plugin logged.
type LogLine struct {
	Time     time.Time `json:"time"`
	Level    string    `json:"level"`
	Plugin   string    `json:"plugin"`
	Stream   string    `json:"stream,omitempty"`
	Consumer string    `json:"consumer,omitempty"`
	Text     string    `json:"text"`
}

// pluginLog keeps the last lines of a plugin and bounds their rate.
type pluginLog struct {
	mu      sync.Mutex
	lines   []LogLine // oldest first
	tokens  float64
	at      time.Time // when tokens was counted
	dropped int
}

func (s *Service) logOf(plugin string) *pluginLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[plugin]
	if l == nil {
		l = &pluginLog{tokens: logRate}
		s.logs[plugin] = l
	}
	return l
}

func (l *pluginLog) recent() []LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]LogLine{}, l.lines...)
}

// add keeps a line and returns the lines to send: none over the rate, and one more after a gap.
func (l *pluginLog) add(line LogLine) []LogLine {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens = min(logRate, l.tokens+line.Time.Sub(l.at).Seconds()*logRate)
	l.at = line.Time
	if l.tokens < 1 {
		l.dropped++
		return nil
	}
	l.tokens--
	var lines []LogLine
	if l.dropped > 0 {
		gap := line
		gap.Level, gap.Text = abi.Warn.String(), fmt.Sprintf("%d lines dropped: more than %d a second", l.dropped, logRate)
		lines, l.dropped = append(lines, gap), 0
	}
	lines = append(lines, line)
	l.lines = append(l.lines, lines...)
	if over := len(l.lines) - logLines; over > 0 {
		l.lines = slices.Delete(l.lines, 0, over)
	}
	return lines
}

// log takes a line of a plugin, or of the host about it.
func (s *Service) log(sp *spec, level abi.Level, text string) {
	line := LogLine{Time: time.Now().UTC(), Level: level.String(), Plugin: sp.plugin, Stream: sp.stream,
		Consumer: sp.consumer, Text: text}
	for _, line := range s.logOf(sp.plugin).add(line) {
		s.config.Logger.Log(context.Background(), slog.Level(level-abi.Info)*4, line.Text,
			"plugin", line.Plugin, "stream", line.Stream, "consumer", line.Consumer)
		b, err := json.Marshal(line)
		if err != nil {
			panic("BUG: encode log line: " + err.Error())
		}
		s.config.Bus.Publish(LogPrefix+sp.plugin, b)
	}
}
