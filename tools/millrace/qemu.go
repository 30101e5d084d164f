package main

import (
	"context"
	"errors"

	"millrace/tools/qemu"
)

// runQEMU boots images; it has verbs and flags of its own.
func runQEMU(ctx context.Context, c *call) error {
	err := qemu.Run(ctx, c.args, c.stdout, c.stderr)
	if errors.Is(err, qemu.ErrUsage) {
		return errUsage
	}
	return err
}
