package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"millrace/plugins/service"
)

func runBind(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	r := service.BindRequest{KV: map[string]string{}}
	f.StringVar(&r.Stream, "stream", "", "`STREAM` to consume (required)")
	f.StringVar(&r.Consumer, "consumer", "", "`NAME` of the durable consumer (default: the plugin's)")
	f.IntVar(&r.Version, "version", 0, "version of the plugin (default: the newest)")
	f.Var((*list)(&r.Filters), "filter", "`SUBJECTS` of the stream to consume (default: all); may be repeated")
	f.Var((*list)(&r.Publish), "publish", "`SUBJECTS` it may publish to; may be repeated")
	f.Var(grants(r.KV), "kv", "`BUCKET:r` or BUCKET:rw that it may use; may be repeated")
	config := f.String("config", "", "`FILE` with the configuration of the plugin")
	f.IntVar(&r.Batch, "batch", 0, "messages in a batch, at most (default 256)")
	f.StringVar(&r.Tick, "tick", "", "`INTERVAL` of ticks, for a plugin that has them")
	f.StringVar(&r.DeadLetter, "dead-letter", "", "`SUBJECT` for messages that are given up")
	f.IntVar(&r.MaxDeliver, "max-deliver", 0, "deliveries after which a message is given up (default 5, -1: never)")
	f.StringVar(&r.Deliver, "deliver", "", "where to start in the stream: all, new or last (default all)")
	f.Int64Var(&r.Memory, "memory", 0, "`BYTES` of memory (default 16 MiB)")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	r.Plugin = args[0]
	if *config != "" {
		b, err := os.ReadFile(*config)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		if r.Config, err = json.Marshal(string(b)); err != nil {
			return fmt.Errorf("encode configuration: %w", err)
		}
	}
	var bound service.BindingsResponse
	if err := s.ask(ctx, service.VerbBind, r, &bound); err != nil {
		return err
	}
	done := "bound"
	for _, b := range bound.Bindings {
		switch b.State {
		case service.StateRunning:
		case service.StateStarting: // a slow machine compiles it still
			done = "bound, and starting; millrace plugin ls tells when it runs"
		default:
			return fmt.Errorf("plugin %s is bound, but %s: %s", b.Plugin, b.State, b.Reason)
		}
	}
	printBindings(c.stdout, bound.Bindings, done)
	return nil
}
