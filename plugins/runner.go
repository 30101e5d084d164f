package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Sink takes what a Runner's runs produce. Its methods are called on the goroutine of Run, one at a
// time, and in the order of the messages.
type Sink interface {
	// Commit makes the effects of a successful run happen; batch are the messages they settle. An
	// error that is ErrConflict makes the run be repeated; any other ends Run.
	Commit(batch []Message, effects *Effects) error

	// Fail is told that a message failed alone. An error ends Run.
	Fail(m *Message, err error) error
}

// conflictRetries bounds the repetitions of a run whose commit conflicts.
const conflictRetries = 3

// Runner runs batches of messages on an instance of a module, and on a new one after a trap. It is
// used by one goroutine at a time.
type Runner struct {
	module *Module
	config InstanceConfig
	guest  *Instance
	starts int
}

// NewRunner returns a Runner. The instance is started by the first run.
func NewRunner(m *Module, config InstanceConfig) *Runner { return &Runner{module: m, config: config} }

// Close ends the instance.
func (r *Runner) Close() {
	if r.guest != nil {
		r.guest.Close()
		r.guest = nil
	}
}

// Starts returns how many instances were started.
func (r *Runner) Starts() int { return r.starts }

// MemoryBytes returns the linear memory of the instance that runs now.
func (r *Runner) MemoryBytes() int64 {
	if r.guest == nil || r.guest.closed {
		return 0
	}
	return r.guest.MemoryBytes()
}

// instance returns a guest that can run.
func (r *Runner) instance(ctx context.Context) (*Instance, error) {
	if r.guest != nil && !r.guest.closed {
		return r.guest, nil
	}
	guest, err := r.module.Instantiate(ctx, r.config)
	if err != nil {
		return nil, &StartError{err}
	}
	r.guest = guest
	r.starts++
	return guest, nil
}

// StartError is returned when no instance of the module can be started; messages have nothing to do
// with it.
type StartError struct{ Err error }

// Error implements error.
func (e *StartError) Error() string { return "start plugin: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *StartError) Unwrap() error { return e.Err }

// Run processes the batch. When it fails as a whole, its messages run one by one, so that only the
// one that fails alone is reported to the sink. The error is a *StartError, that the context has
// ended, or what the sink returned; then the messages that the sink was not told of are untouched.
func (r *Runner) Run(ctx context.Context, batch []Message, sink Sink) error {
	for len(batch) > 0 {
		n, err := r.once(ctx, batch, sink)
		if err == nil {
			batch = batch[n:] // a guest that is short of time leaves a rest; it runs again at once
			continue
		}
		trap, ok := errors.AsType[*TrapError](err)
		if _, start := errors.AsType[*StartError](err); !ok || start || trap.Kind == TrapCanceled {
			return err
		}
		if len(batch) == 1 {
			return sink.Fail(&batch[0], err)
		}
		singles := slices.Clone(batch)
		for i := range singles {
			singles[i].AfterTrap = true
			if err := r.Run(ctx, singles[i:i+1], sink); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// once runs the batch and commits the effects. It returns the number of messages handled.
func (r *Runner) once(ctx context.Context, batch []Message, sink Sink) (int, error) {
	for try := 0; ; try++ {
		guest, err := r.instance(ctx)
		if err != nil {
			return 0, err
		}
		effects, err := guest.Run(ctx, batch)
		if err != nil {
			return 0, err
		}
		n := len(effects.Settled)
		err = sink.Commit(batch[:n], effects)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, ErrConflict) || try == conflictRetries {
			return 0, fmt.Errorf("commit effects: %w", err)
		}
	}
}

// Tick calls cpi_on_tick and commits its effects. A trap is returned as a *TrapError.
func (r *Runner) Tick(ctx context.Context, sink Sink) error {
	guest, err := r.instance(ctx)
	if err != nil {
		return err
	}
	effects, err := guest.Tick(ctx)
	if err != nil {
		return err
	}
	if err := sink.Commit(nil, effects); err != nil {
		return fmt.Errorf("commit effects of tick: %w", err)
	}
	return nil
}
