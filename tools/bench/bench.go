package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// bench is one comparison.
type bench struct {
	millraced, natsServer, cli string
	rounds                     int
	span                       time.Duration
	dir                        string
	loads                      []load
}

// Names of the servers, in the order of the report.
var serverNames = []string{"millraced", "nats always", "nats default"}

// result is what one load did on each server.
type result struct {
	load  string
	rates map[string][]float64 // server -> messages a second, one per round
}

// run measures all loads. The rounds of the servers interleave, so that what else happens on the
// machine meets all of them.
func (b *bench) run(ctx context.Context) (results []result, err error) {
	if err := b.findPrograms(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "millrace-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	servers, err := b.start(ctx, dir)
	defer func() {
		for _, s := range servers {
			err = errors.Join(err, s.stopAll())
		}
	}()
	if err != nil {
		return nil, err
	}
	for _, l := range b.loads {
		r, err := b.measure(ctx, l, servers)
		if err != nil {
			return results, fmt.Errorf("%s: %w", l.name, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// findPrograms makes the paths absolute.
func (b *bench) findPrograms() (err error) {
	for _, p := range []*string{&b.millraced, &b.natsServer, &b.cli} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
		if _, err := os.Stat(*p); err != nil {
			return fmt.Errorf("%w; \"make bench\" builds it", err)
		}
	}
	return nil
}

// client returns the load program for a server.
func (b *bench) client(s *server) client {
	return client{cli: b.cli, home: s.dir, url: s.url(), pair: [2]string{s.pair[0].url(), s.pair[1].url()}}
}

// measure runs one load, first short to learn how many messages fill the time span.
func (b *bench) measure(ctx context.Context, l load, servers []*server) (result, error) {
	r := result{load: l.name, rates: make(map[string][]float64)}
	counts := make(map[string]int)
	for _, s := range servers {
		c := b.client(s)
		rate, err := l.run(ctx, c, l.probe)
		if err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		counts[s.name] = l.count(rate, b.span)
	}
	for round := range b.rounds {
		for i := range servers {
			s := servers[(i+round)%len(servers)]
			rate, err := l.run(ctx, b.client(s), counts[s.name])
			if err != nil {
				return r, fmt.Errorf("%s: %w", s.name, err)
			}
			fmt.Printf("%-28s round %d  %-12s %12.0f msgs/s  (%d messages)\n", l.name, round+1, s.name, rate, counts[s.name])
			r.rates[s.name] = append(r.rates[s.name], rate)
		}
	}
	return r, nil
}
