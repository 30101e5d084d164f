package transport

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// limiterKeys bounds what a limiter remembers: strangers choose a part of the keys. Beyond it all
// others share one key.
const limiterKeys = 64

// limiter logs a line for each key at most once in an interval.
type limiter struct {
	logger   *slog.Logger
	interval time.Duration

	mu   sync.Mutex
	keys map[string]*limited
}

type limited struct {
	last     time.Time
	withheld int // lines since
}

func newLimiter(logger *slog.Logger, interval time.Duration) *limiter {
	return &limiter{logger: logger, interval: interval, keys: map[string]*limited{}}
}

// warn logs a line unless there was one with the same key lately. It adds how many were withheld.
func (l *limiter) warn(key, text string, args ...any) {
	if withheld, ok := l.pass(key, time.Now()); ok {
		if withheld > 0 {
			args = append(args, "withheld", withheld)
		}
		l.logger.Log(context.Background(), slog.LevelWarn, text, args...)
	}
}

func (l *limiter) pass(key string, now time.Time) (withheld int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.keys[key]
	if e == nil && len(l.keys) >= limiterKeys {
		maps.DeleteFunc(l.keys, func(_ string, e *limited) bool { return now.Sub(e.last) >= l.interval })
		if len(l.keys) >= limiterKeys {
			key = ""
			e = l.keys[key]
		}
	}
	if e == nil {
		e = &limited{}
		l.keys[key] = e
	} else if now.Sub(e.last) < l.interval {
		e.withheld++
		return 0, false
	}
	withheld = e.withheld
	e.last, e.withheld = now, 0
	return withheld, true
}

// reasonOf returns the kind of an error: few different texts.
func reasonOf(err error) string {
	for _, known := range refusalErrors {
		if known != nil && errors.Is(err, known) {
			return known.Error()
		}
	}
	for _, known := range []error{ErrProtocol, ErrCorrupt, ErrInsecure, errTimeout, errHungUp} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "other"
}
