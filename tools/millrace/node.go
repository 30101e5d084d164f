package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"millrace/appliance/boxapi"
)

func nodeVerbs() []verb {
	return []verb{
		{"ls", "", "list the servers of the cluster and the boxes they run on", runNodeList},
		{"info", "NODE", "show a box", runNodeInfo},
		{"logs", "NODE", "print the last lines of a box's log; -f goes on", runNodeLogs},
		{"reboot", "NODE", "start a box anew", runNodeReboot},
		{"poweroff", "NODE", "switch a box off", runNodePowerOff},
		{"reset", "NODE", "make a box forget name, key and configuration; -data erases its streams too", runNodeReset},
		{"config", "get|set NODE", "print the configuration of a box, or replace it by what comes on standard input", runNodeConfig},
		{"disks", "NODE", "list the disks of a box, or give it one for its data", runNodeDisks},
		{"update", "NODE IMAGE", "put a new version on a box and wait until it has proven itself", runNodeUpdate},
	}
}

// How long answers to a question to all are waited for: for the first one, and after each. A server that is not well takes
// up to four seconds to say so, and a box that does not answer may be none.
const (
	firstAnswer  = 3 * time.Second
	nextAnswer   = 700 * time.Millisecond
	healthAnswer = 5 * time.Second
	boxAnswer    = time.Second

	// slowFactor is how many times as long as the first answer each of the others may take, up to firstAnswer.
	slowFactor = 10
)

// node is a server of the cluster. Its box is nil when it does not run on one.
type node struct {
	ID, Name, Cluster string
	Health            boxapi.Health
	Box               *boxapi.Info
}

// storage reports whether the node keeps streams.
func (n node) storage() bool { return n.Box != nil && n.Box.Role == boxapi.RoleStorage }

// serverAnswer is what servers answer to requests of the system account; a plain PING has no health.
type serverAnswer struct {
	Server struct {
		ID      string `json:"id"`
		Name    string `json:"name"`
		Cluster string `json:"cluster"`
	} `json:"server"`
	Data boxapi.Health `json:"data"`
}

// askAll asks everybody and calls each with every answer, until each says that it has all, or none has come for the time next.
// Where the first answer takes long, as from emulated machines, the others are given more time than that.
func askAll(ctx context.Context, conn *nats.Conn, subject string, next time.Duration, each func([]byte) (all bool, err error)) error {
	inbox := conn.NewRespInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // ends with the connection at the latest
	if err := conn.PublishRequest(subject, inbox, nil); err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	began := time.Now()
	for wait := max(firstAnswer, next); ; wait = next {
		waiting, cancel := context.WithTimeout(ctx, wait)
		m, err := sub.NextMsgWithContext(waiting)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil, errors.Is(err, nats.ErrNoResponders):
			return nil
		case err != nil:
			return fmt.Errorf("ask %s: %w", subject, err)
		}
		if !began.IsZero() {
			next, began = max(next, min(firstAnswer, slowFactor*time.Since(began))), time.Time{}
		}
		all, err := each(m.Data)
		if err != nil {
			return fmt.Errorf("answer to %s: %w", subject, err)
		}
		if all {
			return nil
		}
	}
}

// findNodes returns the servers of the cluster, by name.
func findNodes(ctx context.Context, conn *nats.Conn) ([]node, error) {
	byID := map[string]*node{}
	err := askAll(ctx, conn, "$SYS.REQ.SERVER.PING", nextAnswer, func(data []byte) (bool, error) {
		var a serverAnswer
		if err := json.Unmarshal(data, &a); err != nil {
			return false, err
		}
		byID[a.Server.ID] = &node{ID: a.Server.ID, Name: a.Server.Name, Cluster: a.Server.Cluster}
		byID[a.Server.ID].Health = boxapi.Health{Status: "unavailable", Error: "it does not answer"}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	if len(byID) == 0 {
		return nil, errors.New("no server answers: the user of this connection must be one of the system account")
	}
	// Of those that come or go meanwhile nothing is said.
	left := len(byID)
	err = askAll(ctx, conn, "$SYS.REQ.SERVER.PING.HEALTHZ", healthAnswer, func(data []byte) (bool, error) {
		var a serverAnswer
		if err := json.Unmarshal(data, &a); err != nil {
			return false, err
		}
		if n := byID[a.Server.ID]; n != nil {
			n.Health = a.Data
			left--
		}
		return left <= 0, nil
	})
	if err != nil {
		return nil, err
	}
	left = len(byID)
	err = askAll(ctx, conn, boxapi.Ping, boxAnswer, func(data []byte) (bool, error) {
		var a boxapi.Answer
		if err := json.Unmarshal(data, &a); err != nil {
			return false, err
		}
		n := byID[a.Server]
		if n == nil {
			return false, nil
		}
		left--
		if a.Error != "" {
			return left <= 0, nil // it cannot tell of itself
		}
		n.Box = &boxapi.Info{}
		return left <= 0, json.Unmarshal(a.Data, n.Box)
	})
	var list []node
	for _, n := range byID {
		list = append(list, *n)
	}
	slices.SortFunc(list, func(a, b node) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	return list, err
}

// findMembers returns the names of the servers that count for the quorum of the cluster, reachable or not, as those that are
// reachable know them; none where streams are not clustered.
func findMembers(ctx context.Context, conn *nats.Conn) ([]string, error) {
	names := map[string]bool{}
	err := askAll(ctx, conn, "$SYS.REQ.SERVER.PING.JSZ", boxAnswer, func(data []byte) (bool, error) {
		var a struct {
			Data struct {
				Meta *struct {
					Leader   string `json:"leader"`
					Replicas []struct {
						Name string `json:"name"`
					} `json:"replicas"`
				} `json:"meta_cluster"`
			} `json:"data"`
		}
		if err := json.Unmarshal(data, &a); err != nil || a.Data.Meta == nil {
			return false, err
		}
		if a.Data.Meta.Leader != "" {
			names[a.Data.Meta.Leader] = true
		}
		for _, r := range a.Data.Meta.Replicas {
			names[r.Name] = true
		}
		return false, nil
	})
	return slices.Sorted(maps.Keys(names)), err
}

// findNode returns the box of that name.
func findNode(ctx context.Context, conn *nats.Conn, name string) (node, error) {
	list, err := findNodes(ctx, conn)
	if err != nil {
		return node{}, err
	}
	var found []node
	var names []string
	for _, n := range list {
		names = append(names, n.Name)
		if n.Name == name || n.ID == name {
			found = append(found, n)
		}
	}
	switch {
	case len(found) == 0:
		return node{}, fmt.Errorf("no server is called %q; there are: %s", name, strings.Join(names, ", "))
	case len(found) > 1:
		return node{}, fmt.Errorf("%d servers are called %q: say which by its id", len(found), name)
	case found[0].Box == nil:
		return node{}, fmt.Errorf("server %s does not run on a Millrace box, or its box does not answer", name)
	}
	return found[0], nil
}

// askBox asks one box; in nil sends no request.
func askBox(ctx context.Context, conn *nats.Conn, timeout time.Duration, id, verb string, in, out any) error {
	var data []byte
	if in != nil {
		var err error
		if data, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return requestBox(ctx, conn, id, verb, data, out)
}

// requestBox asks one box, with a request as it is.
func requestBox(ctx context.Context, conn *nats.Conn, id, verb string, data []byte, out any) error {
	m, err := conn.RequestWithContext(ctx, boxapi.Subject(id, verb), data)
	if err != nil {
		return fmt.Errorf("ask the box for %s: %w", verb, err)
	}
	var a boxapi.Answer
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return fmt.Errorf("answer of the box to %s: %w", verb, err)
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	if err := json.Unmarshal(a.Data, out); err != nil {
		return fmt.Errorf("answer of the box to %s: %w", verb, err)
	}
	return nil
}

// onNode connects, and calls fn with the box that args[which] names.
func (c *call) onNode(ctx context.Context, s *server, args []string, which int, fn func(*nats.Conn, node) error) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	n, err := findNode(ctx, conn, args[which])
	if err != nil {
		return err
	}
	return fn(conn, n)
}
