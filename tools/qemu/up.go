package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"millrace/board"
	"millrace/image/signature"
)

// fleetDir is the folder of the fleet unless -dir names another.
const fleetDir = ".build/fleet"

const (
	// wellText ends the status line of a box that is well.
	wellText = ", ok"

	// wellTimeout is how long a cluster may take to form after its last machine serves.
	wellTimeout = time.Minute
)

// up boots a fleet and keeps it until it is told to end.
func (cmd *command) up(ctx context.Context, args []string) error {
	set := cmd.set
	boardName := set.String("board", "qemu-amd64", "board of the image")
	c := fleetConfig{Logger: cmd.logger()}
	set.StringVar(&c.Image, "image", ".build/millrace.img", "disk image `file`, without a configuration")
	set.StringVar(&c.Dir, "dir", fleetDir, "`folder` of the machines' disks and console logs")
	set.IntVar(&c.Nodes, "nodes", 3, "machines with a data disk")
	set.IntVar(&c.Routers, "routers", 1, "machines without")
	set.IntVar(&c.FirstPort, "port", 14222, "NATS port of the first machine on this one, the others follow; 0: free ones")
	dataGiB := set.Int64("data-size", 8, "size of a new data disk in GiB; it is sparse")
	set.IntVar(&c.MemoryMiB, "m", 512, "memory of a machine in MiB")
	set.IntVar(&c.CPUs, "smp", 1, "processors of a machine")
	set.BoolVar(&c.Direct, "direct", false, "start kernels without firmware and boot loader: some seconds faster")
	set.BoolVar(&c.Fresh, "fresh", false, "make new disks; without it the machines of the last time go on")
	set.Func("update-key", "public `key` of updates that new machines take (mkimage keygen prints it)", func(text string) (err error) {
		c.UpdateKey, err = signature.ParseKey(text)
		return err
	})
	set.StringVar(&c.ConfigDir, "configs", "", "`folder` with a n1.conf, … r1.conf for new system disks (default: a cluster of all)")
	parallel := set.Int("parallel", 2, "how many machines boot at the same time")
	if err := cmd.parse(args); err != nil {
		return err
	}
	if set.NArg() > 0 || *parallel < 1 {
		return fmt.Errorf("unexpected argument %q, or -parallel below 1", set.Args())
	}
	var ok bool
	if c.Board, ok = board.ByName(*boardName); !ok {
		return fmt.Errorf("no board %q", *boardName)
	}
	c.DataBytes = *dataGiB << 30
	return keepFleet(ctx, restore, c, *parallel, cmd.stdout)
}

// keepFleet boots a fleet, serves commands, and powers it off in the end.
func keepFleet(ctx context.Context, restore func(), c fleetConfig, parallel int, w io.Writer) error {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return fmt.Errorf("make folder of the fleet: %w", err)
	}
	l, err := listen(c.Dir) // first: the disks are of one fleet at a time
	if err != nil {
		return err
	}
	f, err := newFleet(c)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ctl := &control{fleet: f, stop: stop}
	var wg sync.WaitGroup
	wg.Go(func() { ctl.serve(ctx, l) })

	if len(f.other) > 0 {
		fmt.Fprintf(w, "The disks of %s in %s are of an earlier time and go on as they are: with its image, or what it was updated to, and its\n"+
			"configuration, not %s. -fresh makes new ones and deletes what is stored (make run FRESH=1).\n",
			strings.Join(f.other, ", "), c.Dir, c.Image)
	}
	began := time.Now()
	err = start(ctx, f.machines, parallel)
	if err == nil {
		f.waitWell(ctx, w)
		fmt.Fprintf(w, "\n%d machines serve after %.1f s:\n\n", len(f.machines), time.Since(began).Seconds())
		err = ctl.status(w)
		fmt.Fprintf(w, "\nmillrace qemu status | console N | kill N | start N | powercut N | cut N M | delay N M 50ms | drop N M 0.1 | heal N M | down\n"+
			"With the nats CLI: nats -s URL …, and nats -s URL --user admin --password admin server report jetstream\n^C powers all off.\n")
	}
	if err == nil {
		<-ctx.Done()
		restore()
		down, cancel := context.WithTimeout(context.Background(), powerDownTimeout)
		err = f.down(down)
		cancel()
	}
	err = errors.Join(err, l.Close())
	wg.Wait() // the answer to "down" is still on its way
	return errors.Join(err, f.close())
}

// waitWell waits until each machine has said that it is well: a storage node that serves is not a member of the
// cluster yet. One that is not in wellTimeout is named, and the fleet goes on.
func (f *fleet) waitWell(ctx context.Context, w io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, wellTimeout)
	defer cancel()
	for _, m := range f.machines {
		m.mu.Lock()
		v := m.vm
		m.mu.Unlock()
		if v == nil {
			continue // cut meanwhile
		}
		if err := v.WaitConsole(ctx, wellText); err != nil {
			fmt.Fprintf(w, "%s does not say that it is well: see millrace qemu console %s\n", m.name, m.name)
		}
	}
}

// console prints what a machine has printed, and goes on with it.
func (cmd *command) console(ctx context.Context, args []string) error {
	set := cmd.set
	dir := set.String("dir", fleetDir, "`folder` of the fleet")
	follow := set.Bool("f", false, "go on until ^C")
	if err := cmd.parse(args); err != nil {
		return err
	}
	if set.NArg() != 1 || strings.ContainsRune(set.Arg(0), filepath.Separator) {
		return errors.New("console wants the name of a machine, such as n1")
	}
	f, err := os.Open(filepath.Join(*dir, set.Arg(0)+".console.log"))
	if err != nil {
		return fmt.Errorf("read console: %w", err)
	}
	defer f.Close()
	for {
		if _, err := io.Copy(cmd.stdout, f); err != nil || !*follow {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// ask passes a command on to the running fleet.
func (cmd *command) ask(ctx context.Context, verb string, args []string) error {
	set := cmd.set
	dir := set.String("dir", fleetDir, "`folder` of the fleet")
	if err := cmd.parse(args); err != nil {
		return err
	}
	return ask(ctx, *dir, append([]string{verb}, set.Args()...), cmd.stdout)
}
