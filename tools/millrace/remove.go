package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"millrace/plugins/service"
)

// runRemove removes a plugin and then those of its modules that no other plugin has.
func runRemove(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	var removed service.RemoveResponse
	if err := s.request(ctx, conn, service.VerbRemove, service.Target{Plugin: args[0]}, &removed); err != nil {
		return err
	}
	var left service.ListResponse
	if err := s.request(ctx, conn, service.VerbList, struct{}{}, &left); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, p := range left.Plugins {
		for _, v := range p.Versions {
			used[v.Digest] = true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	store, err := s.modules(ctx, conn)
	if err != nil {
		return err
	}
	for _, v := range removed.Removed {
		if used[v.Digest] {
			continue
		}
		if err := store.Delete(ctx, v.Digest); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
			return fmt.Errorf("delete module %s: %w", v.Digest, err)
		}
	}
	fmt.Fprintf(c.stdout, "plugin %s removed, with %d versions\n", args[0], len(removed.Removed))
	return nil
}
