package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// serverPath is the program under test.
var serverPath = os.Getenv("MILLRACE_TEST_SERVER")

// isMillraced reports whether the program under test is ours; tests of what only it does, such as
// the form of configuration errors, skip for any other.
func isMillraced() bool { return strings.HasPrefix(filepath.Base(serverPath), "millraced") }

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if serverPath == "" {
		dir, err := os.MkdirTemp("", "millrace-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		serverPath = filepath.Join(dir, "millraced")
		build := exec.Command("go", "build", "-o", serverPath, "millrace/appliance/cmd/millraced")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build millraced: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// needMillraced skips a test of what no other server does.
func needMillraced(t *testing.T) {
	t.Helper()
	if !isMillraced() {
		t.Skipf("%s is not millraced", serverPath)
	}
}
