package plugins

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"millrace/plugins/abi"
	"millrace/plugins/meter"
)

// Config configures a Runtime.
type Config struct {
	// CacheDir keeps compiled code between processes. It holds native code, so it is created with
	// mode 0700 and must be written by no one else. Empty: compiled code lives in memory only.
	CacheDir string

	// Guests is the number of guests that may run at the same time, a bound on the processors that
	// plugins take. Default: GOMAXPROCS-1, at least 1. The others wait their turn.
	Guests int
}

// Runtime compiles modules and shares the processors between their instances. Its methods may be
// called concurrently.
type Runtime struct {
	cacheDir string
	turns    chan struct{} // one token for each guest that runs
}

// Open returns a Runtime. It creates the cache directory.
func Open(config Config) (*Runtime, error) {
	if config.CacheDir != "" {
		if err := os.MkdirAll(config.CacheDir, 0o700); err != nil {
			return nil, fmt.Errorf("create plugin cache: %w", err)
		}
	}
	guests := config.Guests
	if guests <= 0 {
		guests = max(1, runtime.GOMAXPROCS(0)-1)
	}
	return &Runtime{cacheDir: config.CacheDir, turns: make(chan struct{}, guests)}, nil
}

// Digest returns the name of a module: the sha256 of its bytes in hexadecimal.
func Digest(wasm []byte) string {
	sum := sha256.Sum256(wasm)
	return hex.EncodeToString(sum[:])
}

// Module is a compiled plugin. Its methods may be called concurrently.
type Module struct {
	Digest   string        // of the original bytes
	Size     int           // of the original in bytes
	Manifest []byte        // content of the custom section cpi.manifest, or nil
	Ticks    bool          // exports cpi_on_tick
	Compiled time.Duration // time that validation and compilation took

	runtime  *Runtime
	engine   wazero.Runtime
	cache    wazero.CompilationCache
	compiled wazero.CompiledModule
	initial  int64 // bytes of linear memory at the start
}

// Compile validates the module, meters and compiles it. The error is ErrInvalid for a module that is
// refused, and names everything that is missing.
func (rt *Runtime) Compile(ctx context.Context, wasm []byte) (*Module, error) {
	start := time.Now()
	m := &Module{Digest: Digest(wasm), Size: len(wasm), runtime: rt}
	parsed, err := meter.Parse(wasm, moduleLimits())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := inspect(parsed); err != nil {
		return nil, err
	}
	m.Manifest = parsed.Custom[abi.ManifestSection]
	for _, ex := range parsed.Exports {
		m.Ticks = m.Ticks || ex.Name == abi.ExportOnTick
	}
	metered, err := rt.metered(ctx, m.Digest, parsed)
	if err != nil {
		return nil, err
	}
	if err := m.compile(ctx, metered, parsed); err != nil {
		m.Close()
		return nil, err
	}
	m.Compiled = time.Since(start)
	return m, nil
}

// metered returns the rewritten module, from the cache if it was validated before.
func (rt *Runtime) metered(ctx context.Context, digest string, parsed *meter.Module) ([]byte, error) {
	cache := meteredCache{dir: rt.cacheDir}
	if b, ok := cache.get(digest); ok {
		return b, nil
	}
	if err := validate(ctx, parsed.Core()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	metered, err := parsed.Rewrite(meter.Options{Import: abi.Module, Slice: slice, Depth: maxDepth})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return metered, cache.put(digest, metered)
}

// engineConfig is what original and metered modules are held to alike.
func engineConfig(c wazero.RuntimeConfig) wazero.RuntimeConfig {
	return c.WithCoreFeatures(api.CoreFeaturesV2).WithMemoryLimitPages(MaxMemoryBytes / pageBytes).
		WithDebugInfoEnabled(false)
}

// validate checks the original module by the rules of WebAssembly. The interpreter does that without
// generating code.
func validate(ctx context.Context, wasm []byte) (err error) {
	r := wazero.NewRuntimeWithConfig(ctx, engineConfig(wazero.NewRuntimeConfigInterpreter()))
	defer func() {
		if p := recover(); p != nil { // a decoder's fault on hostile bytes must not end the process
			err = fmt.Errorf("validator gave up: %v", p)
		}
		if cerr := r.Close(ctx); err == nil && cerr != nil {
			err = fmt.Errorf("close validator: %w", cerr)
		}
	}()
	_, err = r.CompileModule(ctx, wasm)
	return err
}

func (m *Module) compile(ctx context.Context, metered []byte, parsed *meter.Module) (err error) {
	m.cache = wazero.NewCompilationCache()
	if dir := m.runtime.cacheDir; dir != "" {
		if m.cache, err = wazero.NewCompilationCacheWithDir(filepath.Join(dir, "native")); err != nil {
			return fmt.Errorf("open plugin cache: %w", err)
		}
	}
	m.engine = wazero.NewRuntimeWithConfig(ctx, engineConfig(wazero.NewRuntimeConfig()).WithCompilationCache(m.cache))
	if err := linkHost(ctx, m.engine, parsed.Imports); err != nil {
		return err
	}
	if m.compiled, err = m.engine.CompileModule(ctx, metered); err != nil {
		return fmt.Errorf("compile metered module: %w", err)
	}
	for _, mem := range m.compiled.ExportedMemories() {
		m.initial = int64(mem.Min()) * pageBytes
	}
	return nil
}

// Close frees the code. All instances must be closed before.
func (m *Module) Close() error {
	ctx := context.Background()
	if m.engine != nil {
		if err := m.engine.Close(ctx); err != nil {
			return fmt.Errorf("close plugin engine: %w", err)
		}
	}
	if m.cache != nil {
		if err := m.cache.Close(ctx); err != nil {
			return fmt.Errorf("close plugin cache: %w", err)
		}
	}
	return nil
}
