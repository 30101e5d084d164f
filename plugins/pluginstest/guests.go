// Package pluginstest builds guests for tests. It is imported by tests only.
package pluginstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Guest builds plugins/examples/<name> and returns the module. A guest in C, whose name ends in "-c",
// skips the test where clang or wasm-ld is missing.
func Guest(tb testing.TB, name string) []byte {
	tb.Helper()
	if strings.HasSuffix(name, "-c") {
		for _, tool := range []string{"clang", "wasm-ld"} {
			if _, err := exec.LookPath(tool); err != nil {
				tb.Skipf("%s is not installed: guest %s cannot be built", tool, name)
			}
		}
	}
	_, here, _, _ := runtime.Caller(0)
	dir := tb.TempDir()
	script := filepath.Join(filepath.Dir(here), "..", "examples", "build.sh")
	if out, err := exec.Command(script, dir, name).CombinedOutput(); err != nil {
		tb.Fatalf("build guest %s: %v\n%s", name, err, out)
	}
	wasm, err := os.ReadFile(filepath.Join(dir, name+".wasm"))
	if err != nil {
		tb.Fatal(err)
	}
	return wasm
}
