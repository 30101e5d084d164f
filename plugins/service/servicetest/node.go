package servicetest

import (
	"context"
	"slices"

	"millrace/plugins/service"
)

// MemoryNode is the consumers of a Memory as one of several nodes has them: one node leads all of them.
type MemoryNode struct {
	*Memory
	name string
}

// Node returns a node's view of the consumers.
func (m *Memory) Node(name string) *MemoryNode { return &MemoryNode{m, name} }

// Lead makes a node lead all consumers. What feeds of others have in hand stays pending.
func (m *Memory) Lead(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leader = name
	for _, c := range m.consumers {
		c.wake()
	}
}

func (n *MemoryNode) away() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leader != n.name
}

// List implements service.Consumers.
func (n *MemoryNode) List(ctx context.Context) ([]service.Consumer, error) {
	list, err := n.Memory.List(ctx)
	for i := range list {
		list[i].Away, list[i].Spare = n.away(), true
	}
	return list, err
}

// Feed implements service.Consumers.
func (n *MemoryNode) Feed(ctx context.Context, stream, consumer string) (service.Feed, error) {
	if n.away() {
		return nil, service.ErrAway
	}
	f, err := n.Memory.Feed(ctx, stream, consumer)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c := f.(*memoryFeed).consumer
	for seq := range c.counts {
		if !slices.Contains(c.again, seq) {
			c.again = append(c.again, seq)
		}
	}
	slices.Sort(c.again)
	return &nodeFeed{f.(*memoryFeed), n}, nil
}

// nodeFeed is a feed that ends when another node leads.
type nodeFeed struct {
	*memoryFeed
	node *MemoryNode
}

// Fetch implements service.Feed.
func (f *nodeFeed) Fetch(limit, maxBytes int) ([]service.Delivered, error) {
	if f.node.away() {
		return nil, service.ErrAway
	}
	return f.memoryFeed.Fetch(limit, maxBytes)
}

// Settle implements service.Feed.
func (f *nodeFeed) Settle(settlements []service.Settlement) error {
	if f.node.away() {
		return service.ErrAway
	}
	return f.memoryFeed.Settle(settlements)
}
