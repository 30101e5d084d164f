package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/nats-io/nats.go"
)

func runNodeList(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	asJSON := f.Bool("json", false, "print JSON")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	list, err := findNodes(ctx, conn)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(c.stdout, list)
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tCLUSTER\tROLE\tADDRESS\tVERSION\tHEALTH")
	for _, n := range list {
		role, address, version := "no box", "-", "-"
		if b := n.Box; b != nil {
			role, address, version = b.Role, cmp.Or(strings.Join(b.Addresses, " "), "-"), b.Version
			if b.Update.Trial {
				version += " (on trial)"
			}
		}
		health := n.Health.Status
		if n.Health.Error != "" {
			health += ": " + n.Health.Error
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, cmp.Or(n.Cluster, "-"), role, address, version, health)
	}
	return w.Flush()
}

func runNodeInfo(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	return c.onNode(ctx, s, args, 0, func(_ *nats.Conn, n node) error { return printJSON(c.stdout, n.Box) })
}
