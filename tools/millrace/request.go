package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"

	"millrace/plugins/service"
)

// request sends a request of the plugin API and decodes the response into out.
func (s *server) request(ctx context.Context, conn *nats.Conn, verb string, in, out any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, service.APIPrefix+verb, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%s does not serve plugins for this account (nothing answers %s%s)", s.url, service.APIPrefix, verb)
	case errors.Is(err, context.DeadlineExceeded):
		done := "it may be done all the same, and "
		if verb == service.VerbList || verb == service.VerbInfo || verb == service.VerbLogs {
			done = "" // they change nothing
		}
		return fmt.Errorf("no answer from %s within %v; %s-timeout waits longer", s.url, s.timeout, done)
	case err != nil:
		return fmt.Errorf("request %s: %w", verb, err)
	}
	var failed service.ErrorResponse
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return fmt.Errorf("decode answer to %s: %w", verb, err)
	}
	if failed.Error != nil {
		return fmt.Errorf("%s (%d)", failed.Error.Description, failed.Error.ErrCode)
	}
	if err := json.Unmarshal(m.Data, out); err != nil {
		return fmt.Errorf("decode answer to %s: %w", verb, err)
	}
	return nil
}

// ask connects, sends one request and closes the connection.
func (s *server) ask(ctx context.Context, verb string, in, out any) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	return s.request(ctx, conn, verb, in, out)
}

// target adds the flags that choose a binding.
func target(f *flag.FlagSet) *service.Target {
	t := &service.Target{}
	f.StringVar(&t.Stream, "stream", "", "only the binding to this `STREAM`")
	f.StringVar(&t.Consumer, "consumer", "", "only the binding of this `CONSUMER`")
	return t
}

// printJSON writes v indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printBindings writes one line for each binding.
func printBindings(w io.Writer, bindings []service.BindingInfo, done string) {
	for _, b := range bindings {
		fmt.Fprintf(w, "plugin %s version %d, consumer %s of stream %s: %s\n", b.Plugin, b.Version, b.Consumer, b.Stream, done)
	}
}
