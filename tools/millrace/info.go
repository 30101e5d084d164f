package main

import (
	"context"

	"millrace/plugins/service"
)

func runInfo(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	var info service.PluginInfo
	if err := s.ask(ctx, service.VerbInfo, service.Target{Plugin: args[0]}, &info); err != nil {
		return err
	}
	return printJSON(c.stdout, info)
}
