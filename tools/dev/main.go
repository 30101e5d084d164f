// Command dev runs a small cluster for a developer: three storage nodes and a router as processes on this
// machine, in the foreground. ^C stops all of them; what they have stored is there at the next start. A
// node that ends by itself is not started again: it says so, and the others go on.
//
// "make dev" builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/tools/cluster"
)

// Ports of the first node; each further node has the next ones.
const (
	firstClient = 4222
	firstRoute  = 6222
)

const storageNodes = 3

// formLimit bounds the wait for the cluster at the start.
const formLimit = time.Minute

func main() {
	program := flag.String("program", ".build/bin/millraced", "server `program`")
	router := flag.String("router", "", "`program` of the router; a stock nats-server works too; default: the server program")
	dir := flag.String("dir", ".build/dev", "`folder` for configuration files and stores")
	clean := flag.Bool("clean", false, "delete what was stored before the start")
	flag.Parse()
	if *router == "" {
		*router = *program
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *program, *router, *dir, *clean); err != nil {
		fmt.Fprintf(os.Stderr, "dev: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program, router, dir string, clean bool) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if clean {
		for i := range storageNodes {
			if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("n%d", i+1))); err != nil {
				return err
			}
		}
	}
	c, err := cluster.New(cluster.Options{
		Program: program, Storage: storageNodes, Routers: []string{router}, Dir: dir,
		Ports: func(i int) (client, route int) { return firstClient + i, firstRoute + i },
	})
	if err != nil {
		return err
	}
	return serve(ctx, c, dir)
}

// serve runs the nodes until ctx is done or none is left.
func serve(ctx context.Context, c *cluster.Cluster, dir string) (err error) {
	out := &lines{to: os.Stderr}
	var wg sync.WaitGroup
	for _, n := range c.Nodes {
		n.Log.To = out.of(n.Name)
	}
	defer func() { err = errors.Join(err, stopAll(c, out)); wg.Wait() }()
	var ended sync.WaitGroup
	stopping := ctx.Done()
	for _, n := range c.Nodes {
		if err := n.Launch(); err != nil {
			return err
		}
		exited := n.Exited()
		ended.Add(1)
		wg.Go(func() {
			defer ended.Done()
			<-exited
			select {
			case <-stopping:
			default:
				out.print("dev", fmt.Sprintf("%s ended with exit code %d and is not started again; ^C and \"make dev\" starts all", n.Name, n.ExitCode()))
			}
		})
	}
	for _, n := range c.Nodes {
		if err := n.WaitGreeting(cluster.StartTimeout); err != nil {
			return err
		}
	}
	forming, cancel := context.WithTimeout(ctx, formLimit)
	defer cancel()
	if err := c.WaitFormed(forming, 0); err != nil && ctx.Err() == nil {
		return err
	} else if err == nil {
		out.print("dev", greeting(c, dir))
	}
	gone := make(chan struct{})
	wg.Go(func() { ended.Wait(); close(gone) })
	select {
	case <-ctx.Done():
		return nil
	case <-gone:
		return errors.New("no node is left")
	}
}

// greeting says where to connect.
func greeting(c *cluster.Cluster, dir string) string {
	var b strings.Builder
	var urls []string
	fmt.Fprintf(&b, "the cluster is up; ^C stops it, data is in %s\n", dir)
	for _, n := range c.Nodes {
		what := "storage node"
		if !n.Storage {
			what = "router"
		}
		fmt.Fprintf(&b, "  %-3s %-13s %s   pid %d\n", n.Name, what, n.URL(), n.PID())
		urls = append(urls, n.URL())
	}
	servers := strings.Join(urls, ",")
	fmt.Fprintf(&b, "  nats context add millrace-dev --select --server %s\n", servers)
	fmt.Fprintf(&b, "  nats context add millrace-dev-system --server %s --user %s --password %s", servers, cluster.AdminUser, cluster.AdminPassword)
	return b.String()
}

// stopAll ends all nodes at once, cleanly.
func stopAll(c *cluster.Cluster, out *lines) error {
	out.print("dev", "stopping")
	errs := make([]error, len(c.Nodes))
	var wg sync.WaitGroup
	for i, n := range c.Nodes {
		if n.Running() {
			wg.Go(func() {
				if errs[i] = n.Stop(); errs[i] != nil {
					errs[i] = errors.Join(errs[i], n.Kill())
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// lines writes whole lines of several sources, each with the name of its source.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) print(name, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(text) {
		fmt.Fprintf(l.to, "%-3s | %s\n", name, strings.TrimSuffix(line, "\n"))
	}
}

func (l *lines) of(name string) io.Writer { return &source{name: name, lines: l} }

type source struct {
	name  string
	lines *lines
	rest  []byte // a line without its end; owned by the one that writes
}

func (s *source) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	if i := strings.LastIndexByte(string(s.rest), '\n'); i >= 0 {
		s.lines.print(s.name, string(s.rest[:i+1]))
		s.rest = append([]byte(nil), s.rest[i+1:]...)
	}
	return len(p), nil
}
