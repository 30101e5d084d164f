package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"millrace/tools/qemu/vm"
)

// controlName is the socket by which the other commands reach `millrace qemu up`, in the folder of the fleet. Each
// connection carries one line with a command, and back text that ends with a line "ok" or "error: …".
const controlName = "control"

// maxCommand bounds a command's line, in bytes.
const maxCommand = 1024

// control carries out commands on a fleet.
type control struct {
	fleet *fleet
	stop  func() // ends `millrace qemu up`
	wg    sync.WaitGroup
}

// listen makes the socket. One that nobody answers on is left over and replaced.
func listen(dir string) (net.Listener, error) {
	path := filepath.Join(dir, controlName)
	if conn, err := net.Dial("unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("a fleet runs in %s already (millrace qemu down ends it)", dir), conn.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	return l, nil
}

// serve answers commands until the listener is closed.
func (c *control) serve(ctx context.Context, l net.Listener) {
	defer c.wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		c.wg.Go(func() {
			defer conn.Close()
			line, err := bufio.NewReader(io.LimitReader(conn, maxCommand)).ReadString('\n')
			if err != nil {
				return
			}
			var out bytes.Buffer
			result := "ok"
			if err := c.do(ctx, strings.Fields(line), &out); err != nil {
				result = "error: " + strings.ReplaceAll(err.Error(), "\n", " | ")
			}
			fmt.Fprintf(conn, "%s%s\n", out.String(), result)
		})
	}
}

// do carries out one command.
func (c *control) do(ctx context.Context, words []string, w io.Writer) error {
	if len(words) == 0 {
		return errors.New("no command")
	}
	args := words[1:]
	switch verb := words[0]; verb {
	case "status":
		return c.status(w)
	case "down":
		ctx, cancel := context.WithTimeout(ctx, powerDownTimeout)
		defer cancel()
		err := c.fleet.down(ctx)
		c.stop()
		return err
	case "start", "kill", "powercut":
		if len(args) != 1 {
			return fmt.Errorf("%s wants one machine", verb)
		}
		m, err := c.fleet.find(args[0])
		if err != nil {
			return err
		}
		if verb != "start" {
			if err := m.cut(); err != nil {
				return err
			}
		}
		if verb != "kill" {
			return m.start(ctx)
		}
		return nil
	case "cut", "heal", "delay", "drop":
		return c.link(verb, args)
	default:
		return fmt.Errorf("unknown command %q", verb)
	}
}

// link changes the link between two machines: "cut A B", "heal A B", "delay A B 50ms", "drop A B 0.1".
func (c *control) link(verb string, args []string) error {
	want := map[string]int{"cut": 2, "heal": 2, "delay": 3, "drop": 3}[verb]
	if len(args) != want {
		return fmt.Errorf("%s wants two machines, delay and drop a value", verb)
	}
	var ends [2]*machine
	for i := range ends {
		m, err := c.fleet.find(args[i])
		if err != nil {
			return err
		}
		ends[i] = m
	}
	var l vm.Link
	var err error
	switch verb {
	case "cut":
		l.Cut = true
	case "delay":
		l.Delay, err = time.ParseDuration(args[2])
	case "drop":
		l.Drop, err = strconv.ParseFloat(args[2], 64)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	return c.fleet.net.SetLink(ends[0].name, ends[1].name, l)
}

// status prints all machines, and the links that are not whole.
func (c *control) status(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "N\tNAME\tADDRESS\tSTATE\tURL")
	for _, m := range c.fleet.machines {
		fmt.Fprintln(t, m.status())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	hurt := c.fleet.net.Links()
	for i, a := range c.fleet.machines {
		for _, b := range c.fleet.machines[i+1:] {
			if l, ok := hurt[[2]string{a.name, b.name}]; ok {
				fmt.Fprintf(w, "link %s to %s: cut %v, delay %v, drop %v\n", a.name, b.name, l.Cut, l.Delay, l.Drop)
			}
		}
	}
	return nil
}

// ask sends a command to a running fleet and copies its answer.
func ask(ctx context.Context, dir string, words []string, w io.Writer) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, controlName))
	if err != nil {
		return fmt.Errorf("no fleet runs in %s (millrace qemu up): %w", dir, err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, strings.Join(words, " ")); err != nil {
		return fmt.Errorf("ask the fleet: %w", err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return fmt.Errorf("ask the fleet: %w", err)
	}
	text := strings.TrimSuffix(string(answer), "\n")
	body, result := "", text
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		body, result = text[:i+1], text[i+1:]
	}
	fmt.Fprint(w, body)
	if result == "ok" {
		return nil
	}
	if cause, ok := strings.CutPrefix(result, "error: "); ok {
		return errors.New(cause)
	}
	return errors.New("the fleet ended before it answered")
}
