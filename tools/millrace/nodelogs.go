package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/appliance/boxapi"
)

func runNodeLogs(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	follow := f.Bool("f", false, "go on printing until interrupted")
	lines := f.Int("n", 100, "how many of the last `LINES`")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	return c.onNode(ctx, s, args, 0, func(conn *nats.Conn, n node) error {
		live := make(chan *nats.Msg, 1024)
		if *follow { // subscribe first, so that no line falls between the recent and the live ones
			if _, err := conn.ChanSubscribe(boxapi.Subject(n.ID, boxapi.VerbLog), live); err != nil {
				return fmt.Errorf("subscribe to the log of %s: %w", n.Name, err)
			}
		}
		r := boxapi.LogsRequest{Lines: *lines}
		if *follow {
			r.Follow = boxapi.MaxFollow
		}
		var recent boxapi.Logs
		if err := askBox(ctx, conn, s.timeout, n.ID, boxapi.VerbLogs, r, &recent); err != nil {
			return err
		}
		last := printLog(c.stdout, recent, 0)
		if !*follow {
			return nil
		}
		again := time.NewTicker(boxapi.MaxFollow * time.Second / 3)
		defer again.Stop()
		for {
			select {
			case m := <-live:
				var logs boxapi.Logs
				if err := json.Unmarshal(m.Data, &logs); err != nil {
					return fmt.Errorf("decode log of %s: %w", n.Name, err)
				}
				last = printLog(c.stdout, logs, last)
			case <-again.C:
				r.Lines = 0
				if err := askBox(ctx, conn, s.timeout, n.ID, boxapi.VerbLogs, r, &recent); err != nil {
					return fmt.Errorf("the log of %s ends here: %w", n.Name, err)
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// printLog prints the lines after one and returns the number of the last. A gap in the numbers is said.
func printLog(w io.Writer, logs boxapi.Logs, last uint64) uint64 {
	for _, l := range logs.Lines {
		if l.Seq != 0 && l.Seq <= last {
			continue
		}
		if last != 0 && l.Seq > last+1 {
			fmt.Fprintf(w, "(%d lines missing)\n", l.Seq-last-1)
		}
		fmt.Fprintf(w, "%s %s\n", l.Time.Format("2006-01-02T15:04:05.000Z07:00"), l.Text)
		last = max(last, l.Seq)
	}
	return last
}
