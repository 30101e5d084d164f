package main

import (
	"context"

	"millrace/plugins/service"
)

func runResume(ctx context.Context, c *call) error {
	return c.change(ctx, service.VerbResume, "resumed")
}
