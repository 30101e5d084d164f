package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// flags returns the flag set of the verb.
func (c *call) flags() *flag.FlagSet {
	f := flag.NewFlagSet("millrace "+c.command(), flag.ContinueOnError)
	f.SetOutput(c.stderr)
	f.Usage = func() {
		fmt.Fprintf(c.stderr, "usage: millrace %s [flags]\n%s\n", strings.TrimSpace(c.command()+" "+c.verb.args), c.help)
		f.PrintDefaults()
	}
	return f
}

// parse reads flags and exactly n arguments, in any order.
func (c *call) parse(f *flag.FlagSet, n int) ([]string, error) {
	var positional []string
	rest := c.args
	for {
		if err := f.Parse(rest); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, errUsage // printed by the flag set
		}
		if f.NArg() == 0 {
			break
		}
		positional, rest = append(positional, f.Arg(0)), f.Args()[1:]
	}
	if len(positional) != n {
		fmt.Fprintf(c.stderr, "millrace %s: %d arguments, want %d\n", c.command(), len(positional), n)
		f.Usage()
		return nil, errUsage
	}
	return positional, nil
}

// list is a flag that may be given several times, or once with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			return errors.New("empty element")
		} else {
			*l = append(*l, part)
		}
	}
	return nil
}

// grants is a flag of bucket:access pairs.
type grants map[string]string

func (g grants) String() string { return "" }

func (g grants) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		bucket, access, ok := strings.Cut(part, ":")
		if !ok || access != "r" && access != "rw" {
			return fmt.Errorf("%q is not BUCKET:r or BUCKET:rw", part)
		}
		g[bucket] = access
	}
	return nil
}

// server holds the flags of a verb that talks to a server.
type server struct {
	call                             *call
	url, user, password, creds, nkey string
	timeout                          time.Duration
	options                          []nats.Option // further ones
}

func (c *call) server(f *flag.FlagSet) *server {
	s := &server{call: c}
	f.StringVar(&s.url, "server", "", "`URL` of the server (default: NATS_URL, or "+nats.DefaultURL+")")
	f.StringVar(&s.url, "s", "", "short for --server `URL`")
	f.StringVar(&s.user, "user", "", "user `NAME` (default: NATS_USER)")
	f.StringVar(&s.password, "password", "", "`PASSWORD` (default: NATS_PASSWORD)")
	f.StringVar(&s.creds, "creds", "", "credentials `FILE` (default: NATS_CREDS)")
	f.StringVar(&s.nkey, "nkey", "", "`FILE` with the seed of an nkey user (default: NATS_NKEY)")
	f.DurationVar(&s.timeout, "timeout", 30*time.Second, "how long to wait for the server")
	return s
}

// connect returns a connection; the caller closes it.
func (s *server) connect() (*nats.Conn, error) {
	for _, v := range []struct {
		value        *string
		name, absent string
	}{{&s.url, "NATS_URL", nats.DefaultURL}, {&s.user, "NATS_USER", ""}, {&s.password, "NATS_PASSWORD", ""},
		{&s.creds, "NATS_CREDS", ""}, {&s.nkey, "NATS_NKEY", ""}} {
		*v.value = cmp.Or(*v.value, s.call.getenv(v.name), v.absent)
	}
	options := append([]nats.Option{nats.Name("millrace"), nats.Timeout(s.timeout)}, s.options...)
	if s.user != "" {
		options = append(options, nats.UserInfo(s.user, s.password))
	}
	if s.creds != "" {
		options = append(options, nats.UserCredentials(s.creds))
	}
	if s.nkey != "" {
		o, err := nats.NkeyOptionFromSeed(s.nkey)
		if err != nil {
			return nil, fmt.Errorf("read nkey of %s: %w", s.nkey, err)
		}
		options = append(options, o)
	}
	conn, err := nats.Connect(s.url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.url, err)
	}
	return conn, nil
}
