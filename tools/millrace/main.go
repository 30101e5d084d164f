// Command millrace is the operator's tool. It is a client of a running server, except for the verbs
// that build and try plugins, flash disks and boot images locally. main.go finds the verb; each verb has its own file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// group is a word that verbs follow.
type group struct {
	name  string
	help  string
	verbs []verb
}

func groups() []group {
	return []group{
		{"plugin", "programs that run in the server", pluginVerbs()},
		{"node", "the boxes of a cluster, over the system account", nodeVerbs()},
		{"cluster", "all boxes of a cluster, over the system account", clusterVerbs()},
	}
}

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
	group  string
	args   []string
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// command is the verb as it is typed, group included.
func (c *call) command() string { return strings.TrimSpace(c.group + " " + c.name) }

// errUsage is returned for a command line that cannot be understood; what is wrong has been printed.
var errUsage = errors.New("usage")

// loneVerbs are verbs without a group.
func loneVerbs() []verb {
	return []verb{
		{"flash", "IMAGE DISK", "write an image and a node's configuration to a disk or a file, and read it back", runFlash},
		{"qemu", "VERB", "boot an image in QEMU: run, up, status, console, kill, start, powercut, cut, delay, drop, heal, down", runQEMU},
	}
}

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
	for _, v := range loneVerbs() {
		if len(args) > 0 && v.name == args[0] {
			return exitCode(stderr, v.run(ctx, &call{v, "", args[1:], getenv, stdin, stdout, stderr}))
		}
	}
	if len(args) < 2 {
		return usage(stderr, args)
	}
	for _, g := range groups() {
		if g.name != args[0] {
			continue
		}
		for _, v := range g.verbs {
			if v.name != args[1] {
				continue
			}
			return exitCode(stderr, v.run(ctx, &call{v, g.name, args[2:], getenv, stdin, stdout, stderr}))
		}
	}
	return usage(stderr, args)
}

// exitCode prints the error of a verb and returns its exit code.
func exitCode(stderr io.Writer, err error) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		return exitUsage
	}
	fmt.Fprintf(stderr, "millrace: %v\n", err)
	return exitFailure
}

// usage prints what there is: of one group when its name was given, of all otherwise.
func usage(w io.Writer, args []string) int {
	list := groups()
	known := len(args) == 0
	for _, g := range list {
		if len(args) > 0 && args[0] == g.name {
			list, known = []group{g}, len(args) == 1
			break
		}
	}
	if word := strings.Join(args[:min(len(args), 2)], " "); !known && !isHelp(args[len(args)-1]) {
		fmt.Fprintf(w, "millrace: unknown command %q\n", word)
	}
	for _, g := range list {
		fmt.Fprintf(w, "usage: millrace %s VERB [flags]: %s\n", g.name, g.help)
		for _, v := range g.verbs {
			fmt.Fprintf(w, "  %-18s %s\n", v.name+" "+v.args, v.help)
		}
		fmt.Fprintf(w, "millrace %s VERB -h prints the flags of a verb.\n", g.name)
	}
	if len(list) > 1 {
		for _, v := range loneVerbs() {
			fmt.Fprintf(w, "usage: millrace %s %s [flags]: %s\n", v.name, v.args, v.help)
		}
	}
	return exitUsage
}

func isHelp(word string) bool { return word == "-h" || word == "--help" || word == "help" }
