package meter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"millrace/plugins/meter"
)

func limits() meter.Limits {
	return meter.Limits{Bytes: 1 << 20, Functions: 1000, Locals: 100_000, Tables: 4, Table: 1000, Globals: 100, Entries: 1000, Segments: 100, Elements: 10_000,
		Memory: 16}
}

func options() meter.Options { return meter.Options{Import: "env", Slice: 1000, Depth: 500} }

func engine(t testing.TB) wazero.Runtime {
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfig().WithMemoryLimitPages(16))
	t.Cleanup(func() { r.Close(context.Background()) })
	return r
}

// outcome is all that can be seen of a run.
type outcome struct {
	results []uint64
	err     string
	memory  []byte
	global  uint64
	yields  int
}

// trap returns the reason in a trap's text, without function indices, which the pass changes.
func trap(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text[strings.Index(text, "wasm error"):]
}

// execute calls main(a, b) of a module. Each yield gives fuel again.
func execute(t testing.TB, wasm []byte, a, b uint64) outcome {
	t.Helper()
	ctx := t.Context()
	r := engine(t)
	var out outcome
	_, err := r.NewHostModuleBuilder("env").
		NewFunctionBuilder().WithFunc(func(v uint32) uint32 { return 2 * v }).Export("double").
		NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, m api.Module, _ []uint64) {
		out.yields++
		m.ExportedGlobal(meter.FuelExport).(api.MutableGlobal).Set(1000)
	}), nil, nil).Export(meter.YieldImport).Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := r.CompileModule(ctx, wasm)
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	m, err := r.InstantiateModule(ctx, compiled, wazero.NewModuleConfig())
	if err != nil {
		out.err = trap(err)
		return out
	}
	out.results, err = m.ExportedFunction("main").Call(ctx, a, b)
	if err != nil {
		out.err = trap(err)
	}
	out.memory, _ = m.Memory().Read(0, m.Memory().Size())
	out.global = m.ExportedGlobal("global").Get()
	return out
}

func rewrite(t testing.TB, wasm []byte, o meter.Options) []byte {
	t.Helper()
	m, err := meter.Parse(wasm, limits())
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	metered, err := m.Rewrite(o)
	if err != nil {
		t.Fatalf("rewrite: %v", err)
	}
	return metered
}

func compare(t testing.TB, wasm []byte) (yields int) {
	t.Helper()
	want, got := execute(t, wasm, 3, 250), execute(t, rewrite(t, wasm, options()), 3, 250)
	if fmt.Sprint(got.results) != fmt.Sprint(want.results) || got.err != want.err || got.global != want.global ||
		!bytes.Equal(got.memory, want.memory) {
		t.Fatalf("module %x\noriginal %v %q global %d\nmetered  %v %q global %d",
			wasm, want.results, want.err, want.global, got.results, got.err, got.global)
	}
	return got.yields
}

// FuzzRewriteBehaves holds metered modules against their originals: results, traps, memory, globals.
func FuzzRewriteBehaves(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		seed := make([]byte, 200)
		for i := range seed {
			seed[i] = byte(random.Uint32())
		}
		f.Add(seed)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) { compare(t, generate(data[:min(len(data), 400)])) })
}

// FuzzRewriteBytes feeds the pass anything: it must not panic, and whatever an engine finds valid it
// must find valid after the pass.
func FuzzRewriteBytes(f *testing.F) {
	whole := generate([]byte("a seed that is as good as any other one is"))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(generate(nil))
	f.Add([]byte("\x00asm\x01\x00\x00\x00"))
	f.Add([]byte("\x00asm\x0d\x00\x01\x00"))
	f.Add(module(section(1, functionType("", "")), section(3, u(0)), section(10, body(0, []byte{0xfd, 12}))))
	f.Add(module(section(1, functionType("", "")), section(3, u(0)), section(10, []byte{9, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f, 0x0b})))
	f.Fuzz(func(t *testing.T, wasm []byte) {
		m, err := meter.Parse(wasm, limits())
		if err != nil {
			checkError(t, err)
			return
		}
		metered, err := m.Rewrite(options())
		if m.Reserved() != "" {
			return
		}
		if _, invalid := validate(t, m.Core()); invalid != nil {
			return
		}
		if err != nil {
			t.Fatalf("rewrite of valid module %x: %v", wasm, err)
		}
		if _, invalid := validate(t, metered); invalid != nil {
			t.Fatalf("module %x is valid, metered it is not: %v", wasm, invalid)
		}
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, meter.ErrModule) && !errors.Is(err, meter.ErrLimit) && !errors.Is(err, meter.ErrComponent) {
		t.Fatalf("unexpected kind of error: %v", err)
	}
}

func validate(t *testing.T, wasm []byte) (wazero.CompiledModule, error) {
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter().WithMemoryLimitPages(16))
	defer r.Close(t.Context())
	return r.CompileModule(t.Context(), wasm)
}

// counting makes a module whose main runs a loop a times and fills b bytes each time.
func counting() []byte {
	code := cat(
		[]byte{0x03, 0x40},                      // loop
		[]byte{0x41, 0, 0x41, 1, 0x20, 1},       // 0, 1, b
		[]byte{0xfc, 11, 0},                     // memory.fill
		[]byte{0x20, 0, 0x41, 1, 0x6b, 0x22, 0}, // a = a-1
		[]byte{0x0d, 0, 0x0b},                   // br_if loop; end
		[]byte{0x20, 0, 0x20, 0, 0x10, 2},       // helper(a, a)
	)
	recursive := cat([]byte{0x20, 0, 0x41, 1, 0x6a, 0x22, 0, 0x41}, s(90), []byte{0x4b, 0x04, i32, 0x20, 0, 0x05,
		0x20, 0, 0x20, 1, 0x10, 2, 0x0b}) // a++; a > 90 ? a : helper(a, b)
	return module(
		section(1, functionType("\x7f\x7f", "\x7f"), functionType("\x7f", "\x7f")),
		section(2, cat(name("env"), name("double"), []byte{0, 1})),
		section(3, u(0), u(0)), section(5, []byte{0, 1}),
		section(6, []byte{i32, 1, 0x41, 5, 0x0b}),
		section(7, export("main", 0, 1), export("memory", 2, 0), export("global", 3, 0)),
		section(10, body(0, code), body(0, recursive)),
		raw(0, cat(name("name"), []byte{1}, name(string(cat(u(1), u(1), name("counting")))))),
	)
}

func TestRewriteChargesLoopsAndBulk(t *testing.T) {
	metered := rewrite(t, counting(), options())
	small, large := execute(t, metered, 1000, 4), execute(t, metered, 1000, 4004)
	if small.err != "" || large.err != "" || small.results[0] != 91 {
		t.Fatalf("%+v, %+v", small.results, large)
	}
	// 1000 turns of 11 instructions and one byte of fuel for 4 bytes filled, in slices of 1000.
	if small.yields < 8 || small.yields > 16 {
		t.Errorf("%d yields in 1000 turns", small.yields)
	}
	if want := small.yields + 500; large.yields < want {
		t.Errorf("%d yields with bulk, want at least %d", large.yields, want)
	}
}

func TestRewriteLimitsDepth(t *testing.T) {
	o := options()
	if got := execute(t, rewrite(t, counting(), o), 1, 0); got.err != "" {
		t.Fatalf("90 calls within a limit of %d: %s", o.Depth, got.err)
	}
	o.Depth = 80
	if got := execute(t, rewrite(t, counting(), o), 1, 0); got.err != "wasm error: unreachable" {
		t.Fatalf("90 calls with a limit of 80: %q", got.err)
	}
}

func TestRewriteKeepsNames(t *testing.T) {
	metered := rewrite(t, counting(), options())
	compiled, err := engine(t).CompileModule(t.Context(), metered)
	if err != nil {
		t.Fatal(err)
	}
	if got := compiled.ExportedFunctions()["main"].DebugName(); got != ".counting" {
		t.Errorf("main is named %q", got)
	}
}

func TestParseLimits(t *testing.T) {
	table := func(min uint32) []byte { return module(section(4, cat([]byte{funcref, 0}, u(min)))) }
	for _, test := range []struct {
		name string
		wasm []byte
		kind error
		want string
	}{
		{"component", []byte("\x00asm\x0d\x00\x01\x00"), meter.ErrComponent, "build for wasm32-wasip1"},
		{"empty", nil, meter.ErrModule, "does not start with"},
		{"elf", []byte("\x7fELF\x02\x01\x01\x00"), meter.ErrModule, "does not start with"},
		{"size", make([]byte, 1<<20+1), meter.ErrLimit, "1048577 bytes, at most 1048576"},
		{"table", table(100_000_000), meter.ErrLimit, "100000000 table elements, at most 1000"},
		{"memory", module(section(5, []byte{0, 17})), meter.ErrLimit, "17 memory pages"},
		{"shared memory", module(section(5, []byte{3, 1, 2})), meter.ErrModule, "limits flag 0x03"},
		{"order", cat(module(section(5, []byte{0, 1})), section(3)), meter.ErrModule, "section 3 is unknown, out of order"},
		{"no code", module(section(1, functionType("", "")), section(3, u(0))), meter.ErrModule, "1 functions declared, 0 with code"},
		{"locals", module(section(1, functionType("", "")), section(3, u(0)),
			section(10, []byte{8, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f, 0x0b})), meter.ErrLimit, "4294967295 locals"},
		{"elements", module(raw(9, []byte("\xe4\xe4\xe40\xe4\xe4\xe400000000000000"))), meter.ErrModule, "element segments in"},
		{"data", module(raw(11, []byte{1, 1, 0xff, 0xff, 0xff, 0x7f})), meter.ErrModule, "section 11"},
		{"truncated", counting()[:60], meter.ErrModule, "offset 0x"},
	} {
		_, err := meter.Parse(test.wasm, limits())
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %v with %q", test.name, err, test.kind, test.want)
		}
	}
}

// Tables get a maximum: nothing else bounds table.grow.
func TestRewriteBoundsTables(t *testing.T) {
	grow := cat([]byte{0xd0, funcref, 0x20, 0, 0xfc, 15, 0})
	wasm := module(section(1, functionType("\x7f\x7f", "\x7f")), section(3, u(0)), section(4, []byte{funcref, 0, 4}),
		section(5, []byte{0, 1}), section(6, []byte{i32, 1, 0x41, 5, 0x0b}),
		section(7, export("main", 0, 0), export("memory", 2, 0), export("global", 3, 0)), section(10, body(0, grow)))
	metered := rewrite(t, wasm, options())
	if got := execute(t, metered, 996, 0); got.err != "" || got.results[0] != 4 {
		t.Errorf("growing to the limit: %+v", got)
	}
	if got := execute(t, metered, 997, 0); uint32(got.results[0]) != 0xffffffff {
		t.Errorf("growing over the limit: %+v", got)
	}
}
