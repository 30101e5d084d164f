package main

import (
	"context"

	"millrace/plugins/service"
)

func runPause(ctx context.Context, c *call) error {
	return c.change(ctx, service.VerbPause, "paused")
}

// change sends a request about bindings and prints what was done to them.
func (c *call) change(ctx context.Context, verb, done string) error {
	f := c.flags()
	s, t := c.server(f), target(f)
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	t.Plugin = args[0]
	var response service.BindingsResponse
	if err := s.ask(ctx, verb, t, &response); err != nil {
		return err
	}
	printBindings(c.stdout, response.Bindings, done)
	return nil
}
