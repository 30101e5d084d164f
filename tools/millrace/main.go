// Command millrace is the operator's tool. It is a client of a running server, except for the verbs
// that build and try plugins locally. main.go finds the verb; each verb has its own file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// verb is one command.
type verb struct {
	name string
	args string // of the command, for the usage line
	help string
	run  func(ctx context.Context, c *call) error
}

// call is one invocation of a verb.
type call struct {
	verb
	args   []string
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// errUsage is returned for a command line that cannot be understood; what is wrong has been printed.
var errUsage = errors.New("usage")

func pluginVerbs() []verb {
	return []verb{
		{"new", "NAME", "make a directory with a plugin project that builds", runNew},
		{"run", "FILE.wasm", "run a plugin locally, as the server would, and print its effects as JSON lines", runRun},
		{"push", "FILE.wasm", "upload a module and make it the newest version of a plugin", runPush},
		{"bind", "NAME", "bind a plugin to a consumer", runBind},
		{"ls", "", "list plugins", runList},
		{"info", "NAME", "show a plugin, its bindings and what they did", runInfo},
		{"pause", "NAME", "stop processing; messages wait", runPause},
		{"resume", "NAME", "go on processing, also after a plugin was paused for its errors", runResume},
		{"unbind", "NAME", "end a binding and delete its consumer", runUnbind},
		{"rm", "NAME", "remove a plugin that is not bound, and its modules", runRemove},
		{"logs", "NAME", "print what a plugin logged last; -f goes on", runLogs},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr))
}

// run finds and runs the verb, and returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] != "plugin" {
		return usage(stderr, args)
	}
	if len(args) == 1 {
		return usage(stderr, nil)
	}
	for _, v := range pluginVerbs() {
		if v.name != args[1] {
			continue
		}
		err := v.run(ctx, &call{v, args[2:], getenv, stdin, stdout, stderr})
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return exitOK
		case errors.Is(err, errUsage):
			return exitUsage
		}
		fmt.Fprintf(stderr, "millrace: %v\n", err)
		return exitFailure
	}
	return usage(stderr, args)
}

func usage(w io.Writer, args []string) int {
	if len(args) > 0 && args[0] != "-h" && args[0] != "--help" && args[0] != "help" {
		unknown := args[0]
		if unknown == "plugin" {
			unknown += " " + args[1]
		}
		fmt.Fprintf(w, "millrace: unknown command %q\n", unknown)
	}
	fmt.Fprintln(w, "usage: millrace plugin VERB [flags]")
	for _, v := range pluginVerbs() {
		fmt.Fprintf(w, "  %-18s %s\n", v.name+" "+v.args, v.help)
	}
	fmt.Fprintln(w, "millrace plugin VERB -h prints the flags of a verb.")
	return exitUsage
}
