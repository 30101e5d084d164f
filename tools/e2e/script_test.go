package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/script/*.txtar: the official "nats" command line against a server that
// each script has to itself. Beside testscript's commands there is
//
//	server start|stop|kill|restart
//	eventually pattern program [argument...]
//
// The server is started before the script begins; stop is SIGTERM, kill is SIGKILL, restart is stop
// and start. eventually runs a program until its standard output has the pattern. NATS_URL names
// the server.
func TestScripts(t *testing.T) {
	cli := cliProgram(t)
	cli, err := filepath.Abs(cli)
	if err != nil {
		t.Fatal(err)
	}
	type key struct{}
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			s := startServer(env.T().(testing.TB))
			env.Values[key{}] = s
			env.Setenv("NATS_URL", s.url())
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("PATH", filepath.Dir(cli)+string(os.PathListSeparator)+env.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"eventually": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: eventually pattern program [argument...]")
				}
				pattern, err := regexp.Compile(args[0])
				ts.Check(err)
				for deadline := time.Now().Add(startTimeout); ; poll() {
					runErr := ts.Exec(args[1], args[2:]...)
					out := ts.ReadFile("stdout")
					if pattern.MatchString(out) {
						return
					}
					if time.Now().After(deadline) {
						ts.Fatalf("after %s: no %s in the output of %q: %v\n%s", startTimeout, args[0], args[1:], runErr, out)
					}
				}
			},
			"server": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: server start|stop|kill|restart")
				}
				s := ts.Value(key{}).(*server)
				switch args[0] {
				case "start":
					s.start()
				case "stop":
					s.stop()
				case "kill":
					s.kill()
				case "restart":
					s.stop()
					s.start()
				default:
					ts.Fatalf("unknown: server %s", args[0])
				}
			},
		},
	})
}

// cliProgram returns the path of the nats command line client.
func cliProgram(t *testing.T) string {
	t.Helper()
	cli := os.Getenv("MILLRACE_TEST_NATS")
	if cli == "" {
		var err error
		if cli, err = exec.LookPath("nats"); err != nil {
			t.Skipf("no nats command line client in the PATH and no MILLRACE_TEST_NATS; \"make test\" installs it: %v", err)
		}
	}
	return cli
}
