// Package sdk is what a consumer plugin in Go is written with. It is compiled into the guest; nothing
// on the host imports it.
//
//	package main
//
//	import "millrace/plugins/sdk"
//
//	var _ = sdk.Register(sdk.Plugin{Message: shout})
//
//	func shout(m *sdk.Message) error { return m.Publish("loud."+m.Subject, nil, bytes.ToUpper(m.Data)) }
//
//	func main() {} // never called: the host calls the functions that sdk exports
//
// Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -ldflags='-s -w' -o shout.wasm .
package sdk

import (
	"fmt"
	"time"

	"millrace/plugins/abi"
)

// Plugin holds the functions of a plugin. Memory of the process is a cache: it is lost when the
// plugin traps, is upgraded or moves.
type Plugin struct {
	// Message is called for each message and must be set. The message and all that it refers to are
	// valid until it returns. If it returns nil without having settled the message, the message is
	// acknowledged; if it returns an error, the error is logged, everything done for the message is
	// undone, and it is delivered again later.
	Message func(m *Message) error

	// Init is called once with the configuration of the binding, and keeps the plugin from starting
	// if it returns an error.
	Init func(config []byte) error

	// Tick is called at the interval that the binding asks for. An error undoes what it did.
	Tick func(now time.Time) error
}

// plugin is what Register was called with; the exported functions have no other way to find it.
var plugin Plugin

// Register makes p the plugin of this module. It is called once, to initialise a package variable.
func Register(p Plugin) struct{} {
	plugin = p
	return struct{}{}
}

// Log levels.
const (
	Debug = abi.Debug
	Info  = abi.Info
	Warn  = abi.Warn
	Error = abi.Error
)

// Logf writes a line to the plugin's log. Lines over 1 KiB are cut off; too many a second are dropped.
func Logf(level abi.Level, format string, args ...any) {
	hostLog(int32(level), fmt.Sprintf(format, args...))
}

// Now returns the host's time, which stands still while a batch is processed.
func Now() time.Time { return time.Unix(0, hostNow()) }

// Count adds n to a counter of the plugin.
func Count(name string, n int64) error {
	return result(hostMetric(name, int32(abi.Counter), n), "count", name)
}

// Gauge sets a value of the plugin.
func Gauge(name string, v int64) error {
	return result(hostMetric(name, int32(abi.Gauge), v), "gauge", name)
}

// Random fills b with bytes that are the same ones when a batch is run again.
func Random(b []byte) { hostRandom(bytesOf(b)) }

// Publish publishes on behalf of the whole batch, or of a tick.
func Publish(subject string, header, data []byte) error {
	return publish(abi.WholeBatch, subject, header, data)
}

func publish(msg int32, subject string, header, data []byte) error {
	hp, hl := bytesOf(header)
	dp, dl := bytesOf(data)
	return result(hostPublish(msg, subject, hp, hl, dp, dl), "publish to", subject)
}

// callError is a negative result of an import. Its text is made only when someone reads it.
type callError struct {
	verb, noun string
	code       abi.Code
}

func (e *callError) Error() string { return e.verb + " " + e.noun + ": " + e.code.Error() }

func (e *callError) Unwrap() error { return e.code }

// result makes an error of a negative code.
func result(code int32, verb, noun string) error {
	if code < 0 {
		return &callError{verb, noun, abi.Code(code)}
	}
	return nil
}

func config() []byte {
	b := make([]byte, 1024)
	for {
		n := hostConfig(bytesOf(b))
		if int(n) <= len(b) {
			return b[:max(n, 0)]
		}
		b = make([]byte, n)
	}
}

func start() int32 {
	if plugin.Message == nil {
		Logf(Error, "no plugin: call sdk.Register with a Message function")
		return int32(abi.Unsupported)
	}
	if plugin.Init != nil {
		if err := plugin.Init(config()); err != nil {
			Logf(Error, "init: %v", err)
			return int32(abi.Invalid)
		}
	}
	return 0
}

func tick(now int64) int32 {
	if plugin.Tick == nil {
		return 0
	}
	if err := plugin.Tick(time.Unix(0, now)); err != nil {
		Logf(Error, "tick: %v", err)
		return int32(abi.Invalid)
	}
	return 0
}

// batch calls Message for each frame of the inbox.
func batch(inbox []byte, count int) int32 {
	var frame abi.Frame
	var m Message
	for i := range count {
		rest, err := abi.ParseFrame(inbox, &frame)
		if err != nil {
			Logf(Error, "message %d of %d: %v", i, count, err)
			return int32(abi.Invalid)
		}
		inbox = rest
		m = Message{
			Subject: string(frame.Subject), Header: frame.Header, Data: frame.Data,
			Seq: frame.StreamSeq, ConsumerSeq: frame.ConsumerSeq, Delivered: int(frame.Delivered),
			Time: time.Unix(0, frame.TimeNS), Alone: frame.Flags&abi.FlagAfterTrap != 0, index: int32(i),
		}
		if err := plugin.Message(&m); err != nil {
			Logf(Error, "message %d: %v", m.Seq, err)
			if err := m.Nak(backoff(m.Delivered)); err != nil {
				return int32(abi.Invalid) // it was settled before it failed: undo the batch
			}
		}
	}
	return 0
}

func backoff(delivered int) time.Duration {
	delays := [...]time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute}
	return delays[min(max(delivered-1, 0), len(delays)-1)]
}
