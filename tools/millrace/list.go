package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"millrace/plugins/service"
)

func runList(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	asJSON := f.Bool("json", false, "print JSON")
	if _, err := c.parse(f, 0); err != nil {
		return err
	}
	var list service.ListResponse
	if err := s.ask(ctx, service.VerbList, struct{}{}, &list); err != nil {
		return err
	}
	if *asJSON {
		return printJSON(c.stdout, list.Plugins)
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PLUGIN\tNEWEST\tSTREAM\tCONSUMER\tRUNS\tSTATE\tDONE\tERRORS")
	for _, p := range list.Plugins {
		newest := len(p.Versions)
		if newest > 0 {
			newest = p.Versions[newest-1].Version
		}
		if len(p.Bindings) == 0 {
			fmt.Fprintf(w, "%s\t%d\t-\t-\t-\tnot bound\t-\t-\n", p.Name, newest)
		}
		for _, b := range p.Bindings {
			errors := uint64(0)
			for _, n := range b.Stats.Traps {
				errors += n
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%d\t%s\t%d\t%d\n",
				p.Name, newest, b.Stream, b.Consumer, b.Version, b.State, b.Stats.Messages, errors)
		}
	}
	return w.Flush()
}
