package plugins

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"millrace/plugins/abi"
	"millrace/plugins/meter"
)

// InstanceConfig says what one instance may do and whom it talks to. The functions are called on the
// goroutine of the run, while the guest waits.
type InstanceConfig struct {
	Stream string // name of the stream that the messages come from; seeds the random import
	Config []byte // what the config import returns
	Grants Grants
	Limits Limits

	KV     KV                                                  // nil: no buckets
	Log    func(level abi.Level, text string)                  // nil: lines are dropped
	Metric func(name string, kind abi.MetricKind, value int64) // nil: values are dropped
	Now    func() time.Time                                    // nil: time.Now; read once a run
}

// Instance is one running guest. It is used by one goroutine at a time. A trap closes it.
type Instance struct {
	module *Module
	config InstanceConfig
	limits Limits
	memory *linearMemory

	guest               api.Module
	mem                 api.Memory
	fuel, depth         api.MutableGlobal
	buf, onBatch, tick  api.Function
	inbox, inboxBytes   uint32
	closed              bool
	stack               [4]uint64
	metrics             map[string]bool
	stdio               [2]lineBuffer // stdout, stderr
	lastSubject         string        // the last subject that Grants.Publish allowed
	transaction         bool          // effects are possible: a batch or tick runs
	txn                 txn
	seed                [2]uint64 // of the run: what random depends on beside the stream
	random              *rand.ChaCha8
	now                 int64
	used, budget        int64 // fuel of the run
	granted, hostCharge int64 // fuel given to the guest since used was counted, and spent for it by imports
	deadline            time.Time
}

type instanceKey struct{}

// Instantiate starts a guest: its start function, _initialize and cpi_init run within Limits.InitCPU.
// The error is ErrRefused when cpi_init says so, a *TrapError when it fails.
func (m *Module) Instantiate(ctx context.Context, config InstanceConfig) (*Instance, error) {
	in := &Instance{module: m, config: config, limits: config.Limits.withDefaults(), metrics: map[string]bool{}}
	if in.config.Now == nil {
		in.config.Now = time.Now
	}
	if m.initial > in.limits.MemoryBytes {
		return nil, fmt.Errorf("%w: needs %d bytes of memory at the start, granted are %d",
			ErrInvalid, m.initial, in.limits.MemoryBytes)
	}
	memory, err := newLinearMemory(uint64(in.limits.MemoryBytes) &^ (pageBytes - 1))
	if err != nil {
		return nil, err
	}
	in.memory = memory
	err = in.run(ctx, in.limits.InitCPU, in.start)
	if err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

// start instantiates the guest and looks its functions up once: a look-up costs 200 times a call.
func (in *Instance) start(ctx context.Context) error {
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions()
	guest, err := in.module.engine.InstantiateModule(
		experimental.WithMemoryAllocator(ctx, in.memory), in.module.compiled, config)
	if err != nil {
		return trapOf(err)
	}
	in.attach(guest)
	in.buf = guest.ExportedFunction(abi.ExportBuf)
	in.onBatch = guest.ExportedFunction(abi.ExportOnBatch)
	in.tick = guest.ExportedFunction(abi.ExportOnTick)
	if f := guest.ExportedFunction(abi.ExportInitialize); f != nil {
		if _, err := in.call(ctx, f); err != nil {
			return err
		}
	}
	if f := guest.ExportedFunction(abi.ExportInit); f != nil {
		rc, err := in.call(ctx, f)
		if err != nil {
			return err
		}
		if rc < 0 {
			return fmt.Errorf("%w: cpi_init returned %d (%v)", ErrRefused, rc, abi.Code(rc))
		}
	}
	return nil
}

// attach takes hold of the guest. An import called by the start function does it before
// InstantiateModule returns.
func (in *Instance) attach(guest api.Module) {
	if in.guest != nil {
		return
	}
	in.guest, in.mem = guest, guest.Memory()
	in.fuel = guest.ExportedGlobal(meter.FuelExport).(api.MutableGlobal)
	in.depth = guest.ExportedGlobal(meter.DepthExport).(api.MutableGlobal)
}

// run gives the guest its turn and a budget for what f calls, and closes the instance if f fails.
func (in *Instance) run(ctx context.Context, budget time.Duration, f func(context.Context) error) error {
	turns := in.module.runtime.turns
	select {
	case turns <- struct{}{}:
	case <-ctx.Done():
		return &TrapError{Kind: TrapCanceled, Reason: "not run: " + ctx.Err().Error()}
	}
	now := in.config.Now()
	in.now = now.UnixNano()
	in.random = nil
	in.stdio[0].first, in.stdio[1].first = "", ""
	in.used, in.budget, in.hostCharge = 0, fuelOf(budget), 0
	in.deadline = time.Now().Add(in.limits.Wall)
	in.granted = slice // the start value of a new guest's fuel
	if in.guest != nil {
		in.refuel()
	}
	err := f(context.WithValue(ctx, instanceKey{}, in))
	if err != nil {
		in.closed = true
	}
	if in.guest != nil {
		in.count()
	}
	<-turns
	for i := range in.stdio {
		in.stdio[i].flush(in)
	}
	if in.closed {
		in.Close()
	}
	return err
}

// refuel gives the guest its next slice.
func (in *Instance) refuel() {
	in.granted = min(slice, in.budget-in.used)
	in.fuel.Set(uint64(in.granted))
}

// count adds what was spent since the last refuel to the fuel used.
func (in *Instance) count() {
	in.used += in.granted - int64(in.fuel.Get()) + in.hostCharge
	in.granted, in.hostCharge = int64(in.fuel.Get()), 0
}

// charge accounts for work that an import did: n bytes or steps, beside the crossing.
func (in *Instance) charge(ctx context.Context, n int) {
	const crossing = 200
	in.hostCharge += crossing + int64(n)/4
	if in.hostCharge >= slice {
		in.yield(ctx)
	}
}

// yield is called when a slice of fuel is used up. Here the guest can be stopped, and others get
// their turn; time spent waiting for a turn is not held against the guest.
func (in *Instance) yield(ctx context.Context) {
	in.count()
	if in.used >= in.budget {
		panic(stopFuel(cpuOf(in.budget)))
	}
	now := time.Now()
	if now.After(in.deadline) {
		panic(&stop{TrapWall, fmt.Sprintf("stopped after %v of real time, with %v of CPU used",
			in.limits.Wall, cpuOf(in.used).Round(time.Millisecond))})
	}
	if err := ctx.Err(); err != nil {
		panic(&stop{TrapCanceled, "stopped: " + err.Error()})
	}
	turns := in.module.runtime.turns
	<-turns
	runtime.Gosched()
	turns <- struct{}{}
	in.deadline = in.deadline.Add(time.Since(now))
	in.refuel()
}

// call calls a guest function with up to 4 arguments. Its i32 result, if it has one, is returned.
func (in *Instance) call(ctx context.Context, f api.Function, args ...uint64) (int32, error) {
	copy(in.stack[:], args)
	err := f.CallWithStack(ctx, in.stack[:])
	if err == nil {
		return int32(uint32(in.stack[0])), nil
	}
	trap := trapOf(err)
	if in.depth.Get() > maxDepth && trap.Kind == TrapWasm {
		trap.Kind = TrapDepth
		trap.Reason = fmt.Sprintf("stopped at %d nested calls: endless recursion?", maxDepth)
	}
	return 0, trap
}

// Run hands the guest a batch. On success the effects say how many of the messages it handled, at
// least one. The error is a *TrapError; the instance is closed then, except for TrapReturn.
func (in *Instance) Run(ctx context.Context, batch []Message) (*Effects, error) {
	if in.closed {
		return nil, ErrClosed
	}
	if len(batch) == 0 {
		return nil, fmt.Errorf("run plugin: %w", abi.Invalid)
	}
	in.seed = [2]uint64{batch[0].Seq}
	budget := min(in.limits.BatchCPU, in.limits.MessageCPU*time.Duration(len(batch)))
	return in.transact(ctx, max(budget, in.limits.MessageCPU), len(batch), func(ctx context.Context) (int32, error) {
		total, err := in.fill(ctx, batch)
		if err != nil {
			return 0, err
		}
		return in.call(ctx, in.onBatch, uint64(in.inbox), uint64(total), uint64(len(batch)))
	})
}

// Tick calls the guest's cpi_on_tick. The rules are those of Run. A module without it does nothing.
func (in *Instance) Tick(ctx context.Context) (*Effects, error) {
	if in.closed {
		return nil, ErrClosed
	}
	if in.tick == nil {
		return &Effects{}, nil
	}
	return in.transact(ctx, in.limits.MessageCPU, 0, func(ctx context.Context) (int32, error) {
		in.seed = [2]uint64{0, uint64(in.now)}
		return in.call(ctx, in.tick, uint64(in.now))
	})
}

// transact runs f in a transaction over count messages and returns its effects.
func (in *Instance) transact(ctx context.Context, budget time.Duration, count int,
	f func(context.Context) (int32, error)) (*Effects, error) {
	in.txn.reset(count)
	in.transaction = true
	var rc int32
	err := in.run(ctx, budget, func(ctx context.Context) (err error) {
		rc, err = f(ctx)
		return err
	})
	in.transaction = false
	if err != nil {
		return nil, err
	}
	if rc < 0 {
		return nil, &TrapError{Kind: TrapReturn,
			Reason: fmt.Sprintf("the plugin returned %d (%v)", rc, abi.Code(rc))}
	}
	handled := count
	if rc > 0 {
		handled = min(int(rc), count)
	}
	effects := in.txn.effects(handled)
	effects.CPU = cpuOf(in.used)
	return effects, nil
}

// fill writes the batch into the guest's inbox, asking for a larger one if need be.
func (in *Instance) fill(ctx context.Context, batch []Message) (total uint32, err error) {
	size := 0
	for i := range batch {
		m := &batch[i]
		size += abi.FrameSize(len(m.Subject), len(m.Header), len(m.Data))
	}
	if int64(size) > in.limits.MemoryBytes {
		return 0, &TrapError{Kind: TrapPointer,
			Reason: fmt.Sprintf("a batch of %d bytes is larger than the plugin's memory", size)}
	}
	if total = uint32(size); total > in.inboxBytes {
		ptr, err := in.call(ctx, in.buf, uint64(total))
		if err != nil {
			return 0, err
		}
		if ptr == 0 {
			return 0, &TrapError{Kind: TrapPointer,
				Reason: fmt.Sprintf("out of memory: cpi_buf has no room for %d bytes", total)}
		}
		in.inbox, in.inboxBytes = uint32(ptr), total
	}
	view, ok := in.mem.Read(in.inbox, total)
	if !ok || in.inbox%8 != 0 {
		return 0, &TrapError{Kind: TrapPointer,
			Reason: fmt.Sprintf("cpi_buf returned 0x%x, which is no aligned place for %d bytes", in.inbox, total)}
	}
	off := 0
	for i := range batch {
		m := &batch[i]
		frame := abi.Frame{Delivered: m.Delivered, StreamSeq: m.Seq, ConsumerSeq: m.ConsumerSeq,
			TimeNS: m.Time.UnixNano(), Subject: []byte(m.Subject), Header: m.Header, Data: m.Data}
		if m.AfterTrap {
			frame.Flags = abi.FlagAfterTrap
		}
		off += abi.PutFrame(view[off:], &frame)
	}
	return total, nil
}

// MemoryBytes returns the guest's linear memory at its largest so far.
func (in *Instance) MemoryBytes() int64 { return int64(in.memory.committed) }

// Close ends the guest and frees its memory. A second call does nothing.
func (in *Instance) Close() {
	in.closed = true
	if in.guest != nil {
		// Closing a module without files or sockets has nothing that could go wrong.
		_ = in.guest.Close(context.Background())
		in.guest = nil
	}
	in.memory.Free()
}

// lineBuffer collects what a guest writes to stdout or stderr and logs it line by line.
type lineBuffer struct {
	level abi.Level
	line  []byte
	first string // the first line of the run
}

func (l *lineBuffer) write(in *Instance, b []byte) {
	for len(b) > 0 {
		line, _, complete := strings.Cut(string(b[:min(len(b), 4096)]), "\n")
		if room := in.limits.LogBytes - len(l.line); room > 0 {
			l.line = append(l.line, line[:min(room, len(line))]...)
		}
		if complete {
			l.flush(in)
			b = b[len(line)+1:]
		} else {
			b = b[len(line):]
		}
	}
}

func (l *lineBuffer) flush(in *Instance) {
	if len(l.line) == 0 {
		return
	}
	text := string(l.line)
	l.line = l.line[:0]
	if l.first == "" {
		l.first = text
	}
	in.log(l.level, text)
}
