package core

import (
	"context"
	"fmt"
	"log/slog"
)

// logger hands the library's messages to slog. What the library calls info (each step of each
// election) is debug here. Fatal and Panic panic: the host stops the one group.
type logger struct {
	to    *slog.Logger
	group uint64
}

func (l *logger) log(level slog.Level, v ...any) {
	if l.to.Enabled(context.Background(), level) {
		l.to.Log(context.Background(), level, fmt.Sprint(v...), "group", l.group)
	}
}

func (l *logger) logf(level slog.Level, format string, v ...any) {
	if l.to.Enabled(context.Background(), level) {
		l.to.Log(context.Background(), level, fmt.Sprintf(format, v...), "group", l.group)
	}
}

func (l *logger) Debug(v ...any)                   { l.log(slog.LevelDebug, v...) }
func (l *logger) Debugf(format string, v ...any)   { l.logf(slog.LevelDebug, format, v...) }
func (l *logger) Info(v ...any)                    { l.log(slog.LevelDebug, v...) }
func (l *logger) Infof(format string, v ...any)    { l.logf(slog.LevelDebug, format, v...) }
func (l *logger) Warning(v ...any)                 { l.log(slog.LevelWarn, v...) }
func (l *logger) Warningf(format string, v ...any) { l.logf(slog.LevelWarn, format, v...) }
func (l *logger) Error(v ...any)                   { l.log(slog.LevelError, v...) }
func (l *logger) Errorf(format string, v ...any)   { l.logf(slog.LevelError, format, v...) }
func (l *logger) Fatal(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l *logger) Fatalf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
func (l *logger) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l *logger) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }

// fail ends a call that cannot go on because the stored log cannot be read. The host stops the group.
func (l *logger) fail(err error) { panic(err) }
