package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/nats-io/nats.go"

	"millrace/appliance/boxapi"
)

// maxConfig bounds what is read as a configuration, in bytes.
const maxConfig = 512 << 10

func runNodeReboot(ctx context.Context, c *call) error {
	return c.power(ctx, boxapi.PowerRequest{}, "starts anew")
}

func runNodePowerOff(ctx context.Context, c *call) error {
	return c.power(ctx, boxapi.PowerRequest{Off: true}, "switches off")
}

func (c *call) power(ctx context.Context, r boxapi.PowerRequest, done string) error {
	f := c.flags()
	s := c.server(f)
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	return c.onNode(ctx, s, args, 0, func(conn *nats.Conn, n node) error {
		return c.changeBox(ctx, s, conn, n, boxapi.VerbPower, r, done)
	})
}

// changeBox asks for something whose answer is that it is done.
func (c *call) changeBox(ctx context.Context, s *server, conn *nats.Conn, n node, verb string, in any, done string) error {
	var out boxapi.Done
	if err := askBox(ctx, conn, s.timeout, n.ID, verb, in, &out); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	if out.Note != "" {
		done += "; " + out.Note
	}
	fmt.Fprintf(c.stdout, "%s %s\n", n.Name, done)
	return nil
}

func runNodeReset(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	data := f.Bool("data", false, "erase the streams of the box too")
	yes := f.String("yes", "", "the `NAME` of the box once more: what it forgets cannot be brought back")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	if *yes != args[0] {
		return fmt.Errorf("nothing done: say --yes %s to make the box forget who it is", args[0])
	}
	return c.onNode(ctx, s, args, 0, func(conn *nats.Conn, n node) error {
		return c.changeBox(ctx, s, conn, n, boxapi.VerbReset, boxapi.ResetRequest{Name: n.Box.Name, Data: *data}, "is reset and starts anew")
	})
}

func runNodeConfig(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	reboot := f.Bool("reboot", false, "set: start the box anew at once; the configuration counts from then on")
	args, err := c.parse(f, 2)
	if err != nil {
		return err
	}
	switch args[0] {
	case "get":
		return c.onNode(ctx, s, args, 1, func(conn *nats.Conn, n node) error {
			var conf boxapi.Config
			if err := askBox(ctx, conn, s.timeout, n.ID, boxapi.VerbConfigGet, nil, &conf); err != nil {
				return err
			}
			_, err := io.WriteString(c.stdout, conf.Text)
			return err
		})
	case "set":
		text, err := io.ReadAll(io.LimitReader(c.stdin, maxConfig+1))
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if len(text) == 0 || len(text) > maxConfig {
			return fmt.Errorf("configuration of %d bytes on standard input, want 1 to %d", len(text), maxConfig)
		}
		return c.onNode(ctx, s, args, 1, func(conn *nats.Conn, n node) error {
			return c.changeBox(ctx, s, conn, n, boxapi.VerbConfigSet, boxapi.Config{Text: string(text), Reboot: *reboot}, "has a new configuration")
		})
	}
	fmt.Fprintf(c.stderr, "millrace node config: %q is neither get nor set\n", args[0])
	return errUsage
}

func runNodeDisks(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	take := f.String("take", "", "make this `DISK` the data disk, whatever it holds")
	yes := f.String("yes-erase", "", "with -take: the `SERIAL` of the disk, or its name if it has none: what it holds is lost")
	asJSON := f.Bool("json", false, "print JSON")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	return c.onNode(ctx, s, args, 0, func(conn *nats.Conn, n node) error {
		if *take != "" {
			r := boxapi.TakeRequest{Disk: *take, Erase: *yes}
			return c.changeBox(ctx, s, conn, n, boxapi.VerbTakeDisk, r, "takes disk "+*take+" and starts anew")
		}
		var out boxapi.Disks
		if err := askBox(ctx, conn, s.timeout, n.ID, boxapi.VerbDisks, nil, &out); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.stdout, out.Disks)
		}
		w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "DISK\tSIZE\tSERIAL\tMODEL\tUSE\tHOLDS")
		for _, d := range out.Disks {
			fmt.Fprintf(w, "%s\t%.1f GiB\t%s\t%s\t%s\t%s\n", d.Name, float64(d.Bytes)/(1<<30), dash(d.Serial), dash(d.Model), dash(d.Use), d.Holds)
		}
		return w.Flush()
	})
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
