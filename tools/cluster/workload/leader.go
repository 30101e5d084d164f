package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// moveLimit bounds the search for a new leader after one stepped down, and moves how often the leader is
// moved to get round all replicas.
const (
	moveLimit = 20 * time.Second
	moves     = 40
)

// StepDown makes the leader of a stream give up, in favour of the preferred node if it is not "", and
// waits for the next one, whose name it returns. It may be the same.
func StepDown(ctx context.Context, nc *nats.Conn, stream, preferred string) (string, error) {
	return stepDown(ctx, nc, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, preferred, func() (string, error) {
		info, err := Info(ctx, nc, stream)
		return leaderOf(info, err)
	})
}

// StepDownConsumer is StepDown for a consumer.
func StepDownConsumer(ctx context.Context, nc *nats.Conn, stream, consumer, preferred string) (string, error) {
	return stepDown(ctx, nc, fmt.Sprintf("$JS.API.CONSUMER.LEADER.STEPDOWN.%s.%s", stream, consumer), preferred, func() (string, error) {
		var info struct {
			Cluster *jetstream.ClusterInfo `json:"cluster"`
			Error   *jetstream.APIError    `json:"error"`
		}
		if err := ask(ctx, nc, fmt.Sprintf("$JS.API.CONSUMER.INFO.%s.%s", stream, consumer), nil, &info); err != nil {
			return "", err
		}
		if info.Error != nil {
			return "", info.Error
		}
		if info.Cluster == nil {
			return "", errors.New("no cluster")
		}
		return info.Cluster.Leader, nil
	})
}

// StepDownMeta makes the leader of the meta group give up. nc is the administrator's.
func StepDownMeta(ctx context.Context, nc *nats.Conn) error {
	var answer stepDownAnswer
	if err := ask(ctx, nc, "$JS.API.META.LEADER.STEPDOWN", nil, &answer); err != nil {
		return err
	}
	return answer.err()
}

type stepDownAnswer struct {
	Success bool                `json:"success"`
	Error   *jetstream.APIError `json:"error"`
}

func (a stepDownAnswer) err() error {
	if a.Error != nil {
		return a.Error
	}
	if !a.Success {
		return errors.New("step-down: no success and no reason")
	}
	return nil
}

func leaderOf(info *jetstream.StreamInfo, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if info.Cluster == nil {
		return "", errors.New("no cluster")
	}
	return info.Cluster.Leader, nil
}

func stepDown(ctx context.Context, nc *nats.Conn, subject, preferred string, leader func() (string, error)) (string, error) {
	var request []byte
	if preferred != "" {
		request = fmt.Appendf(nil, `{"placement":{"preferred":%q}}`, preferred)
	}
	var answer stepDownAnswer
	if err := ask(ctx, nc, subject, request, &answer); err != nil {
		return "", err
	}
	if err := answer.err(); err != nil {
		return "", fmt.Errorf("%s: %w", subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	for {
		name, err := leader()
		if err == nil && name != "" {
			return name, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no leader %s after %s: %w", moveLimit, subject, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ReadAll moves the leader of a stream round its replicas and reads the stream from each.
func ReadAll(ctx context.Context, nc *nats.Conn, stream string) (all []*Content, err error) {
	info, err := Info(ctx, nc, stream)
	if err != nil {
		return nil, err
	}
	want := max(1, info.Config.Replicas)
	read := func(leader string) bool {
		return slices.ContainsFunc(all, func(c *Content) bool { return c.Leader == leader })
	}
	for range moves {
		c, err := Read(ctx, nc, stream)
		if err != nil {
			return nil, err
		}
		if !read(c.Leader) {
			all = append(all, c)
		}
		if len(all) >= want {
			return all, nil
		}
		if info, err = Info(ctx, nc, stream); err != nil {
			return nil, err
		}
		preferred := ""
		if info.Cluster != nil {
			for _, p := range info.Cluster.Replicas {
				if !read(p.Name) {
					preferred = p.Name
				}
			}
		}
		if _, err := StepDown(ctx, nc, stream, preferred); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("stream %s: after %d step-downs only %d of %d replicas have led it", stream, moves, len(all), want)
}
