package plugins

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"crypto/sha256"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"millrace/plugins/abi"
	"millrace/plugins/meter"
)

// hostFunction is an import with its signature. Arguments and result are in the stack.
type hostFunction struct {
	typ  meter.FuncType
	call func(ctx context.Context, in *Instance, stack []uint64)
}

func signature(params, results string) meter.FuncType {
	types := strings.NewReplacer("i", "\x7f", "l", "\x7e")
	return meter.FuncType{Params: types.Replace(params), Results: types.Replace(results)}
}

// cpiFunctions are the imports of CPI 1. In the signatures i is an i32 and l an i64.
func cpiFunctions() map[string]hostFunction {
	return map[string]hostFunction{
		"publish":   {signature("iiiiiii", "i"), hostPublish},
		"settle":    {signature("iilii", "i"), hostSettle},
		"kv_get":    {signature("iiiiiii", "i"), hostKVGet},
		"kv_put":    {signature("iiiiiiil", "i"), hostKVPut},
		"kv_delete": {signature("iiiiil", "i"), hostKVDelete},
		"log":       {signature("iii", ""), hostLog},
		"now":       {signature("", "l"), func(_ context.Context, in *Instance, s []uint64) { s[0] = uint64(in.now) }},
		"config":    {signature("ii", "i"), hostConfig},
		"metric":    {signature("iiil", "i"), hostMetric},
		"random":    {signature("ii", "i"), hostRandom},
	}
}

// linkHost makes the imports that a module asks for, and the pass's own, part of the engine.
func linkHost(ctx context.Context, engine wazero.Runtime, imports []meter.Import) error {
	known := map[string]map[string]hostFunction{abi.Module: cpiFunctions(), wasiModule: wasiFunctions()}
	wanted := map[string]map[string]hostFunction{
		abi.Module: {meter.YieldImport: {call: func(ctx context.Context, in *Instance, _ []uint64) { in.yield(ctx) }}},
		wasiModule: {},
	}
	for _, im := range imports {
		f, ok := known[im.Module][im.Name]
		if !ok { // inspect has let no others than these through
			f = hostFunction{im.Type, wasiUnsupported}
		}
		wanted[im.Module][im.Name] = f
	}
	for module, functions := range wanted {
		if len(functions) == 0 {
			continue
		}
		b := engine.NewHostModuleBuilder(module)
		for name, f := range functions {
			enter := func(ctx context.Context, guest api.Module, stack []uint64) {
				in := ctx.Value(instanceKey{}).(*Instance)
				in.attach(guest)
				f.call(ctx, in, stack)
			}
			b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(enter),
				[]byte(f.typ.Params), []byte(f.typ.Results)).Export(name)
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return fmt.Errorf("link %s: %w", module, err)
		}
	}
	return nil
}

// view returns guest memory. A range outside of it is the guest's bug and ends the run.
func (in *Instance) view(ptr, length uint64) []byte {
	b, ok := in.mem.Read(uint32(ptr), uint32(length))
	if !ok {
		panic(&stop{TrapPointer, fmt.Sprintf("pointer 0x%x with length %d is outside of the plugin's memory of %d bytes",
			uint32(ptr), uint32(length), in.mem.Size())})
	}
	return b
}

func put(stack []uint64, code abi.Code) { stack[0] = uint64(uint32(code)) }

func hostPublish(ctx context.Context, in *Instance, s []uint64) {
	msg := int32(s[0])
	subject, header, data := in.view(s[1], s[2]), in.view(s[3], s[4]), in.view(s[5], s[6])
	size := len(subject) + len(header) + len(data)
	in.charge(ctx, size)
	t := &in.txn
	switch code := in.publishable(subject, header, len(header)+len(data)); {
	case !in.transaction:
		put(s, abi.Unavailable)
	case !t.open(msg):
		put(s, abi.Invalid)
	case code != abi.OK:
		put(s, code)
	case len(t.publications) >= in.limits.Publications || t.bytes+size > in.limits.PublicationBytes:
		put(s, abi.Limit)
	default:
		t.bytes += size
		t.publications = append(t.publications,
			Publication{Msg: int(msg), Subject: in.lastSubject, Header: t.keep(header), Data: t.keep(data)})
		put(s, abi.OK)
	}
}

func hostSettle(ctx context.Context, in *Instance, s []uint64) {
	kind := abi.Settle(int32(s[1]))
	reason := in.view(s[3], s[4])
	in.charge(ctx, len(reason))
	delay := time.Duration(s[2])
	if kind < abi.Ack || kind > abi.DeadLetter || kind == abi.Nak && delay < 0 {
		put(s, abi.Invalid)
		return
	}
	settlement := Settlement{Kind: kind}
	switch kind {
	case abi.Nak:
		settlement.Delay = delay
	case abi.Term, abi.DeadLetter:
		settlement.Reason = clean(reason, in.limits.LogBytes)
	}
	put(s, in.txn.settle(int32(s[0]), settlement))
}

// clean makes text of guest bytes: valid UTF-8 in one line, cut off at limit.
func clean(b []byte, limit int) string {
	text := strings.ToValidUTF8(string(b[:min(len(b), limit)]), "\uFFFD")
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' {
			return ' '
		}
		return r
	}, text)
}

func (in *Instance) log(level abi.Level, text string) {
	if in.config.Log != nil && text != "" {
		in.config.Log(min(max(level, abi.Debug), abi.Error), text)
	}
}

func hostLog(ctx context.Context, in *Instance, s []uint64) {
	text := in.view(s[1], s[2])
	in.charge(ctx, in.limits.LogBytes)
	in.log(abi.Level(int32(s[0])), clean(text, in.limits.LogBytes))
}

func hostConfig(ctx context.Context, in *Instance, s []uint64) {
	out := in.view(s[0], s[1])
	in.charge(ctx, len(in.config.Config))
	if len(out) >= len(in.config.Config) {
		copy(out, in.config.Config)
	}
	put(s, abi.Code(len(in.config.Config)))
}

func hostMetric(ctx context.Context, in *Instance, s []uint64) {
	name := clean(in.view(s[0], s[1]), 128)
	in.charge(ctx, len(name))
	kind := abi.MetricKind(int32(s[2]))
	switch {
	case name == "" || kind != abi.Counter && kind != abi.Gauge:
		put(s, abi.Invalid)
	case !in.metrics[name] && len(in.metrics) >= in.limits.Metrics:
		put(s, abi.Limit)
	default:
		in.metrics[name] = true
		if in.config.Metric != nil {
			in.config.Metric(name, kind, int64(s[3]))
		}
		put(s, abi.OK)
	}
}

func hostRandom(ctx context.Context, in *Instance, s []uint64) {
	in.fillRandom(ctx, in.view(s[0], s[1]))
	put(s, abi.OK)
}

// fillRandom gives the bytes that depend on the stream and the first message of the run only, so that
// a retry sees the same ones.
func (in *Instance) fillRandom(ctx context.Context, out []byte) {
	in.charge(ctx, 4*len(out))
	if in.random == nil {
		seed := append([]byte(in.config.Stream), 0)
		seed = binary.LittleEndian.AppendUint64(seed, in.seed[0])
		seed = binary.LittleEndian.AppendUint64(seed, in.seed[1])
		in.random = rand.NewChaCha8(sha256.Sum256(seed))
	}
	in.random.Read(out) // never fails
}
