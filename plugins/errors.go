package plugins

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"millrace/plugins/meter"
)

var (
	// ErrInvalid is returned for a module that is refused: broken, over a limit, or not CPI 1.
	ErrInvalid = errors.New("module refused")

	// ErrRefused is returned when a guest's cpi_init answers that it cannot start.
	ErrRefused = errors.New("plugin refuses to start")

	// ErrNoBucket is returned by a KV for a bucket that does not exist.
	ErrNoBucket = errors.New("no such bucket")

	// ErrConflict is returned by a Sink's Commit when a key was changed by someone else between the
	// guest's read and the commit. The batch is run again.
	ErrConflict = errors.New("revision conflict")

	// ErrClosed is returned when a closed instance or runtime is used.
	ErrClosed = errors.New("plugins: closed")
)

// TrapKind says why a run failed.
type TrapKind int

// Kinds of trap.
const (
	TrapWasm     TrapKind = iota // the guest's own: unreachable, out of bounds, division by zero
	TrapFuel                     // CPU budget used up
	TrapWall                     // wall-clock backstop
	TrapDepth                    // too many nested calls
	TrapPointer                  // a pointer outside of its memory given to an import
	TrapExit                     // the guest called proc_exit
	TrapReturn                   // the guest answered with a negative code
	TrapCanceled                 // the caller's context ended
)

// String returns the kind as statistics show it.
func (k TrapKind) String() string {
	return [...]string{"trap", "cpu", "wall-clock", "call-depth", "pointer", "exit", "code", "canceled"}[k]
}

// TrapError is returned when a run of the guest failed. All its effects are discarded.
type TrapError struct {
	Kind   TrapKind
	Reason string // one line
	Stack  string // the guest's call stack, innermost first, one function a line; may be empty
}

// Error returns the reason and the innermost function.
func (e *TrapError) Error() string {
	if at, _, _ := strings.Cut(e.Stack, "\n"); at != "" && e.Kind == TrapWasm {
		return e.Reason + " in " + at
	}
	return e.Reason
}

// stop is what an import panics with to end the guest; wazero turns it into an error.
type stop struct {
	kind   TrapKind
	reason string
}

func (s *stop) Error() string { return s.reason }

const stackMark = "\nwasm stack trace:\n\t"

// trapOf makes a TrapError of what a call into the guest returned.
func trapOf(err error) *TrapError {
	reason, stack, _ := strings.Cut(err.Error(), stackMark)
	var frames []string
	for frame := range strings.SplitSeq(stack, "\n\t") {
		// Guests are instantiated without a name, which leaves a dot; the pass's own frame says nothing.
		if !strings.Contains(frame, meter.YieldImport) {
			frames = append(frames, strings.TrimPrefix(frame, "."))
		}
	}
	stack = strings.Join(frames, "\n")
	if s, ok := errors.AsType[*stop](err); ok {
		return &TrapError{Kind: s.kind, Reason: s.reason, Stack: stack}
	}
	if strings.Contains(reason, "stack overflow") {
		return &TrapError{Kind: TrapDepth, Reason: reason + ": endless recursion?", Stack: stack}
	}
	return &TrapError{Kind: TrapWasm, Reason: reason, Stack: stack}
}

func stopFuel(budget time.Duration) *stop {
	return &stop{TrapFuel, fmt.Sprintf("stopped after %v of CPU: endless loop?", budget)}
}
