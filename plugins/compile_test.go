package plugins_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/plugins"
	"millrace/plugins/pluginstest"
)

// guest describes a module made by hand. The code strings are instructions without the final end.
type guest struct {
	imports string // content of the import section, after the count
	funcs   int    // imported
	globals string // the global section, or ""
	exports string // further exports, with their count in more
	more    int
	start   string // code of a start function, or ""
	buf     string // code of cpi_buf
	batch   string // code of cpi_on_batch
}

func section(id byte, content string) string {
	return string([]byte{id, byte(len(content))}) + content
}

func text(s string) string { return string([]byte{byte(len(s))}) + s }

func code(instructions string) string { return text("\x00" + instructions + "\x0b") }

func (g guest) bytes() []byte {
	first := byte(g.funcs)
	export := func(name string, i byte) string { return text(name) + string([]byte{0, first + i}) }
	if g.buf == "" {
		g.buf = "\x41\x80\x08" // i32.const 1024
	}
	m := "\x00asm\x01\x00\x00\x00" +
		section(1, "\x03"+"\x60\x00\x00"+"\x60\x01\x7f\x01\x7f"+"\x60\x03\x7f\x7f\x7f\x01\x7f")
	if g.imports != "" {
		m += section(2, string([]byte{first})+g.imports)
	}
	m += section(3, "\x04\x00\x01\x02\x00") + section(5, "\x01\x00\x01") + g.globals
	m += section(7, string([]byte{byte(4 + g.more)})+text("memory")+"\x02\x00"+export("cpi_abi_1", 0)+
		export("cpi_buf", 1)+export("cpi_on_batch", 2)+g.exports)
	if g.start != "" {
		m += section(8, string([]byte{first + 3}))
	}
	return []byte(m + section(10, "\x04"+code("")+code(g.buf)+code(g.batch)+code(g.start)))
}

const ackAll = "\x41\x00" // i32.const 0

func TestCompileRefuses(t *testing.T) {
	rt := open(t, plugins.Config{})
	for _, test := range []struct {
		name, want string
		wasm       []byte
	}{
		// The appended globals are 0 and 1 here: code that names them is invalid only before the pass.
		{"refuels itself", "invalid global index", guest{batch: "\x42\x80\x80\x80\x80\x80\x01\x24\x00" + ackAll}.bytes()},
		{"reserved export", "__fuel is a reserved name", guest{batch: ackAll, exports: text("__fuel") + "\x00\x00", more: 1}.bytes()},
		{"yield import", "cpi1.__yield is a reserved name", guest{batch: ackAll, funcs: 1, imports: text("cpi1") + text("__yield") + "\x00\x00"}.bytes()},
		{"unknown import", "imports cpi1.fetch, which this host does not have", guest{batch: ackAll, funcs: 1, imports: text("cpi1") + text("fetch") + "\x00\x00"}.bytes()},
		{"import of another type", "imports cpi1.log as ()->(); it is (i32,i32,i32)->()", guest{batch: ackAll, funcs: 1, imports: text("cpi1") + text("log") + "\x00\x00"}.bytes()},
		{"foreign import", "imports env.puts; a plugin may import from cpi1 and wasi_snapshot_preview1 only", guest{batch: ackAll, funcs: 1, imports: text("env") + text("puts") + "\x00\x00"}.bytes()},
		{"imported memory", "imports the memory env.m", guest{batch: ackAll, imports: text("env") + text("m") + "\x02\x00\x01", funcs: 1}.bytes()},
		{"wrong export type", "exports cpi_on_tick as ()->(); it must be (i64)->i32", guest{batch: ackAll, exports: text("cpi_on_tick") + "\x00\x00", more: 1}.bytes()},
		{"type error", "module refused", guest{batch: "\x42\x00"}.bytes()},
		{"no exports", `exports no memory named "memory"; exports no function cpi_abi_1()->(); exports no function cpi_buf(i32)->i32`, []byte("\x00asm\x01\x00\x00\x00")},
		{"component", "this is a component", []byte("\x00asm\x0d\x00\x01\x00")},
		{"text", "does not start with the bytes", []byte("(module)")},
	} {
		_, err := rt.Compile(t.Context(), test.wasm)
		if !errors.Is(err, plugins.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
	}
}

func TestInstanceHostileGuests(t *testing.T) {
	for _, test := range []struct {
		name, want string
		kind       plugins.TrapKind
		guest      guest
	}{
		{"endless start", "stopped after 50ms of CPU: endless loop?", plugins.TrapFuel, guest{start: "\x03\x40\x0c\x00\x0b", batch: ackAll}},
		{"inbox outside", "cpi_buf returned 0xffff0000, which is no aligned place", plugins.TrapPointer, guest{buf: "\x41\x80\x80\x7c", batch: ackAll}},
		{"inbox not aligned", "cpi_buf returned 0x1, which is no aligned place", plugins.TrapPointer, guest{buf: "\x41\x01", batch: ackAll}},
		{"no inbox", "out of memory: cpi_buf has no room", plugins.TrapPointer, guest{buf: "\x41\x00", batch: ackAll}},
		{"memory over the limit", "the plugin returned -1", plugins.TrapReturn, guest{batch: "\x41\x02\x40\x00"}}, // 1+2 pages
		{"division by zero", "wasm error: integer divide by zero in $3(", plugins.TrapWasm, guest{batch: "\x41\x01\x41\x00\x6d"}},
	} {
		m := compile(t, test.guest.bytes())
		in, err := m.Instantiate(t.Context(), plugins.InstanceConfig{Limits: plugins.Limits{
			MemoryBytes: 128 << 10, InitCPU: 50 * time.Millisecond}})
		if err == nil {
			_, err = in.Run(t.Context(), messages("x"))
			in.Close()
		}
		if trap, ok := errors.AsType[*plugins.TrapError](err); !ok || trap.Kind != test.kind || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
	}
}

func TestInstanceNeedsMemory(t *testing.T) {
	m := compile(t, guest{batch: ackAll}.bytes())
	_, err := m.Instantiate(t.Context(), plugins.InstanceConfig{Limits: plugins.Limits{MemoryBytes: 1}})
	if !errors.Is(err, plugins.ErrInvalid) || !strings.Contains(err.Error(), "needs 65536 bytes of memory at the start, granted are 1") {
		t.Errorf("error %v", err)
	}
}

// A guest that is short of time answers with the number of messages it handled; the rest runs again
// at once, and is not marked as failed.
func TestRunnerRunsTheRestAgain(t *testing.T) {
	r := plugins.NewRunner(compile(t, guest{batch: "\x41\x01"}.bytes()), plugins.InstanceConfig{})
	t.Cleanup(r.Close)
	var got recorder
	if err := r.Run(t.Context(), messages("a", "b", "c"), &got); err != nil {
		t.Fatal(err)
	}
	if want := "[commit 1 ack commit 1 ack commit 1 ack]"; fmt.Sprint(got.log) != want {
		t.Errorf("log %v, want %s", got.log, want)
	}
}

func TestRuntimeCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	wasm := guest{batch: ackAll}.bytes()
	use := func() {
		t.Helper()
		m, err := open(t, plugins.Config{CacheDir: dir}).Compile(t.Context(), wasm)
		if err != nil {
			t.Fatal(err)
		}
		in, err := m.Instantiate(t.Context(), plugins.InstanceConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Run(t.Context(), messages("x")); err != nil {
			t.Fatal(err)
		}
		in.Close()
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	use()
	use()
	files, err := filepath.Glob(filepath.Join(dir, "metered-*", plugins.Digest(wasm)))
	if err != nil || len(files) != 1 {
		t.Fatalf("cache holds %v, %v", files, err)
	}
	// A damaged file, as a crash leaves it, is not used.
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], whole[:len(whole)-7], 0o600); err != nil {
		t.Fatal(err)
	}
	use()
	if again, err := os.ReadFile(files[0]); err != nil || string(again) != string(whole) {
		t.Errorf("the damaged file was not replaced: %v", err)
	}
}

// Guests get their memory back: an instance leaves nothing behind.
func TestInstanceCloseFreesMemory(t *testing.T) {
	m := compile(t, pluginstest.Guest(t, "trap-c"))
	for range 200 { // 200 * 256 MiB of address space would not fit many machines' limits twice
		in := start(t, m, plugins.InstanceConfig{Limits: plugins.Limits{MemoryBytes: plugins.MaxMemoryBytes}})
		in.Close()
		if in.MemoryBytes() != 0 {
			t.Fatal("memory is still there")
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(guest{batch: ackAll}.bytes())
	f.Add(guest{batch: "\x03\x40\x0c\x00\x0b" + ackAll, start: "\x03\x40\x0c\x00\x0b"}.bytes())
	f.Add(guest{batch: "\x20\x00\x20\x01\x20\x02\x10\x02"}.bytes()) // recursion
	f.Add([]byte("\x00asm\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, wasm []byte) {
		m, err := open(t, plugins.Config{}).Compile(t.Context(), wasm)
		if err != nil {
			if !errors.Is(err, plugins.ErrInvalid) {
				t.Fatalf("unexpected kind of error: %v", err)
			}
			return
		}
		defer m.Close()
		in, err := m.Instantiate(t.Context(), plugins.InstanceConfig{Limits: plugins.Limits{InitCPU: time.Millisecond}})
		if err != nil {
			return
		}
		defer in.Close()
		began := time.Now()

		_, err = in.Run(t.Context(), messages("x"))
		if took := time.Since(began); took > 2*time.Second {
			t.Fatalf("ran for %v: %v", took, err)
		}
	})
}
