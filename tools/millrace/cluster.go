package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

func clusterVerbs() []verb {
	return []verb{
		{"update", "IMAGE", "put a new version on all boxes, one after the other, never below a quorum", runClusterUpdate},
	}
}

// rollout is the plan of an update of a cluster.
type rollout struct {
	order   []node   // one after the other
	storage []string // names of the nodes that keep streams, reachable or not
	noBox   []string // of them: those that run on no box
	notes   []string
}

// planRollout decides what is updated in what order: routers first, which hold nothing. members are those that count for the
// quorum of the cluster, of which some may not be among the nodes.
func planRollout(nodes []node, members []string, version string, allowOutage bool) (rollout, error) {
	r := rollout{storage: slices.Clone(members)}
	var routers, storage []node
	for _, n := range nodes {
		switch {
		case n.Box == nil:
			r.notes = append(r.notes, n.Name+" does not run on a box: left alone")
			r.noBox = append(r.noBox, n.Name)
			continue
		case n.storage():
			if !slices.Contains(r.storage, n.Name) {
				r.storage = append(r.storage, n.Name)
			}
			storage = append(storage, n)
		default:
			routers = append(routers, n)
		}
		if n.Box.Version == version {
			r.notes = append(r.notes, n.Name+" runs "+version+" already")
		}
	}
	names := map[string]bool{}
	for _, n := range nodes {
		if names[n.Name] {
			return r, fmt.Errorf("two servers are called %q: give them names of their own first", n.Name)
		}
		names[n.Name] = true
	}
	for _, n := range slices.Concat(routers, storage) {
		if n.Box.Version != version {
			r.order = append(r.order, n)
		}
	}
	touched := slices.ContainsFunc(storage, func(n node) bool { return n.Box.Version != version })
	// With one of n away, a majority of n must be left.
	if n := len(r.storage); touched && n-1 < n/2+1 && !allowOutage {
		return r, fmt.Errorf("%d servers keep streams: with one of them away there is no quorum; --allow-outage updates them all the same", n)
	}
	return r, nil
}

// ready reports why the next box cannot be taken away: every other that keeps streams must be there and well.
func (r rollout) ready(nodes []node, next node) string {
	for _, name := range r.storage {
		if name == next.Name {
			continue
		}
		i := slices.IndexFunc(nodes, func(n node) bool { return n.Name == name })
		switch {
		case i < 0:
			return name + " is not reachable"
		case !nodes[i].Health.OK():
			return strings.TrimSpace(fmt.Sprintf("%s is %s %s", name, nodes[i].Health.Status, nodes[i].Health.Error))
		case slices.Contains(r.noBox, name):
		case nodes[i].Box == nil:
			return "the box of " + name + " does not answer"
		case nodes[i].Box.Update.Trial:
			return name + " has a version on trial"
		}
	}
	return ""
}

func runClusterUpdate(ctx context.Context, c *call) error {
	f := c.flags()
	s := c.server(f)
	s.options = []nats.Option{nats.MaxReconnects(-1)}
	outage := f.Bool("allow-outage", false, "update although there is no quorum meanwhile, as with one or two boxes")
	within := f.Duration("within", 20*time.Minute, "how long to wait for each box, and for the others to be well before it")
	args, err := c.parse(f, 1)
	if err != nil {
		return err
	}
	im, err := readImage(args[0])
	if err != nil {
		return err
	}
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	nodes, members, err := c.awaitMembers(ctx, conn, *within)
	if err != nil {
		return err
	}
	r, err := planRollout(nodes, members, im.version, *outage)
	if err != nil {
		return err
	}
	for _, n := range r.notes {
		fmt.Fprintln(c.stdout, n)
	}
	for i, n := range r.order {
		fmt.Fprintf(c.stdout, "%s: %d of %d\n", n.Name, i+1, len(r.order))
		now, err := c.awaitReady(ctx, conn, r, n, *within)
		if err == nil {
			err = c.install(ctx, conn, s.timeout, now, im)
		}
		if err == nil {
			err = c.awaitVersion(ctx, conn, now, im.version, *within)
		}
		if err != nil {
			return fmt.Errorf("stopped, %d of %d boxes have %s: %w", i, len(r.order), im.version, err)
		}
	}
	fmt.Fprintf(c.stdout, "%d boxes updated to %s\n", len(r.order), im.version)
	return nil
}

// awaitMembers waits until all are there who count for the quorum of the cluster, and returns the servers and the names of those.
func (c *call) awaitMembers(ctx context.Context, conn *nats.Conn, within time.Duration) ([]node, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for said := ""; ; {
		nodes, err := findNodes(ctx, conn)
		var members []string
		if err == nil {
			members, err = findMembers(ctx, conn)
		}
		if err != nil && (said == "" || ctx.Err() == nil) {
			return nil, nil, err
		}
		var away []string
		for _, name := range members {
			if !slices.ContainsFunc(nodes, func(n node) bool { return n.Name == name }) {
				away = append(away, name)
			}
		}
		if err == nil && len(away) == 0 {
			return nodes, members, nil
		}
		if why := strings.Join(away, ", "); err == nil && why != said {
			said = why
			fmt.Fprintf(c.stdout, "waiting: members of the cluster are not reachable: %s\n", said)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("members of the cluster are not reachable: %s (%w); one that is gone for good is to be removed from it first", said, ctx.Err())
		}
	}
}

// awaitReady waits until a box may be taken away, and returns it as it is then.
func (c *call) awaitReady(ctx context.Context, conn *nats.Conn, r rollout, next node, within time.Duration) (node, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for said := ""; ; {
		nodes, err := findNodes(ctx, conn)
		why := said // when time is up, what was wrong before is the reason
		switch {
		case err == nil:
			if why = r.ready(nodes, next); why != "" {
				break
			}
			i := slices.IndexFunc(nodes, func(n node) bool { return n.Name == next.Name && n.Box != nil })
			if i >= 0 {
				return nodes[i], nil
			}
			why = next.Name + " is not reachable"
		case ctx.Err() == nil:
			why = err.Error()
		}
		if why != said {
			said = why
			fmt.Fprintf(c.stdout, "%s: waiting: %s\n", next.Name, why)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return node{}, fmt.Errorf("%s: %s (%w)", next.Name, said, ctx.Err())
		}
	}
}
