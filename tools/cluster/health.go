package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// WaitFormed waits until the cluster has a meta group: a stream of so many replicas can be made from the
// first node that runs, 0 meaning one on each storage node that runs (five at most), and one of a single
// replica from each other node. The streams are deleted.
func (c *Cluster) WaitFormed(ctx context.Context, most int) error {
	const name = "FORMED"
	for i, n := range c.Running() {
		nc, err := c.Connect(n)
		if err != nil {
			return err
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		replicas := 1
		if i == 0 {
			replicas = cmp.Or(most, min(5, len(c.runningStorage())))
		}
		if err := wait(ctx, func() error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Replicas: replicas})
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				err = nil // of an attempt whose answer was late
			}
			return err
		}); err != nil {
			return fmt.Errorf("create a stream of %d replicas at %s: %w", replicas, n.Name, err)
		}
		if err := wait(ctx, func() error {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			err := js.DeleteStream(ctx, name)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				err = nil
			}
			return err
		}); err != nil {
			return fmt.Errorf("delete a stream at %s: %w", n.Name, err)
		}
	}
	return nil
}

func (c *Cluster) runningStorage() []*Node {
	return slices.DeleteFunc(c.Running(), func(n *Node) bool { return !n.Storage })
}

// WaitHealthy waits until Healthy has nothing to say about any node that runs.
func (c *Cluster) WaitHealthy(ctx context.Context) error {
	for _, n := range c.Running() {
		nc, err := c.Connect(n)
		if err != nil {
			return err
		}
		defer nc.Close()
		if err := wait(ctx, func() error { return Healthy(ctx, nc) }); err != nil {
			return fmt.Errorf("seen from %s: %w", n.Name, err)
		}
	}
	return nil
}

// replicated is what the answers about a stream and a consumer have in common.
type replicated struct {
	Stream  string                 `json:"stream_name"` // of a consumer
	Name    string                 `json:"name"`        // of a consumer
	Cluster *jetstream.ClusterInfo `json:"cluster"`
	Config  struct {
		Name     string `json:"name"`
		Durable  string `json:"durable_name"`
		Replicas int    `json:"num_replicas"`
	} `json:"config"`
}

type page struct {
	Total     int          `json:"total"`
	Streams   []replicated `json:"streams"`
	Consumers []replicated `json:"consumers"`
	Missing   []string     `json:"missing"`
	Error     *struct {
		Description string `json:"description"`
	} `json:"error"`
}

// Healthy asks the node that nc is connected to for all streams and durable consumers of its account. It
// returns nil when each has a leader and all its replicas are current, else the first that is missing.
func Healthy(ctx context.Context, nc *nats.Conn) error {
	streams, err := list(ctx, nc, "$JS.API.STREAM.LIST")
	if err != nil {
		return err
	}
	for _, s := range streams {
		if err := s.whole("stream "+s.Config.Name, s.Config.Replicas); err != nil {
			return err
		}
		consumers, err := list(ctx, nc, "$JS.API.CONSUMER.LIST."+s.Config.Name)
		if err != nil {
			return err
		}
		for _, c := range consumers {
			if c.Config.Durable == "" {
				continue // it ends with its client
			}
			replicas := c.Config.Replicas
			if replicas == 0 {
				replicas = s.Config.Replicas
			}
			if err := c.whole(fmt.Sprintf("consumer %s of stream %s", c.Name, c.Stream), replicas); err != nil {
				return err
			}
		}
	}
	return nil
}

// list asks a subject of the API until it has all pages.
func list(ctx context.Context, nc *nats.Conn, subject string) (all []replicated, err error) {
	for {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		m, err := nc.RequestWithContext(ctx, subject, fmt.Appendf(nil, `{"offset":%d}`, len(all)))
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", subject, err)
		}
		var p page
		if err := json.Unmarshal(m.Data, &p); err != nil {
			return nil, fmt.Errorf("answer to %s: %w", subject, err)
		}
		if p.Error != nil {
			return nil, fmt.Errorf("answer to %s: %s", subject, p.Error.Description)
		}
		if len(p.Missing) > 0 {
			return nil, fmt.Errorf("answer to %s: %q are missing", subject, p.Missing)
		}
		all = append(append(all, p.Streams...), p.Consumers...)
		if len(all) >= p.Total {
			return all, nil
		}
		if len(p.Streams)+len(p.Consumers) == 0 {
			return nil, fmt.Errorf("answers to %s: %d of %d", subject, len(all), p.Total)
		}
	}
}

// whole reports whether all replicas are there and current.
func (r *replicated) whole(what string, replicas int) error {
	if r.Cluster == nil && replicas <= 1 {
		return nil // a single server
	}
	if r.Cluster == nil || r.Cluster.Leader == "" {
		return fmt.Errorf("%s has no leader", what)
	}
	if n := len(r.Cluster.Replicas) + 1; n != max(1, replicas) {
		return fmt.Errorf("%s has %d replicas, not %d", what, n, replicas)
	}
	for _, p := range r.Cluster.Replicas {
		if p.Offline || !p.Current {
			return fmt.Errorf("%s: the replica on %s is not current (offline %v, lag %d)", what, p.Name, p.Offline, p.Lag)
		}
	}
	return nil
}
