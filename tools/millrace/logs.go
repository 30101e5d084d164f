package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"

	"millrace/plugins/service"
)

func runLogs(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	follow := f.Bool("f", false, "go on printing until interrupted")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	live := make(chan *nats.Msg, 1024)
	if *follow { // subscribe first, so that no line falls between the recent and the live ones
		if _, err := conn.ChanSubscribe(service.LogPrefix+args[0], live); err != nil {
			return fmt.Errorf("subscribe to the log of %s: %w", args[0], err)
		}
	}
	var recent service.LogsResponse
	if err := s.request(ctx, conn, service.VerbLogs, service.Target{Plugin: args[0]}, &recent); err != nil {
		return err
	}
	var last service.LogLine
	for _, last = range recent.Lines {
		printLine(c.stdout, last)
	}
	for *follow {
		select {
		case m := <-live:
			var line service.LogLine
			if err := json.Unmarshal(m.Data, &line); err != nil {
				return fmt.Errorf("decode log line: %w", err)
			}
			if line.Time.After(last.Time) {
				printLine(c.stdout, line)
			}
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

func printLine(w io.Writer, l service.LogLine) {
	fmt.Fprintf(w, "%s %-5s %s/%s: %s\n", l.Time.Format("2006-01-02T15:04:05.000Z07:00"), l.Level, l.Stream, l.Consumer, l.Text)
}
