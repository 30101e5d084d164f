package main

import (
	"context"

	"millrace/plugins/service"
)

func runUnbind(ctx context.Context, c *call) error {
	return c.change(ctx, service.VerbUnbind, "unbound, consumer deleted")
}
