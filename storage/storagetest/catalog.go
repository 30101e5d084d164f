package storagetest

import (
	"maps"
	"slices"
	"sync"
)

// Catalog is a journal.Catalog and journal.KeyStore in memory whose changes are durable at once.
type Catalog struct {
	node uint64

	mu       sync.Mutex
	segments map[uint32][]byte
	key      []byte
	hook     func(op string) error
}

// NewCatalog returns an empty catalog of the given node.
func NewCatalog(node uint64) *Catalog {
	return &Catalog{node: node, segments: make(map[uint32][]byte)}
}

// Clone returns a copy without the hook.
func (c *Catalog) Clone() *Catalog {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &Catalog{node: c.node, segments: maps.Clone(c.segments), key: c.key}
}

// SetHook makes fn be called before each change, without locks held; its error fails the change.
func (c *Catalog) SetHook(fn func(op string) error) {
	c.mu.Lock()
	c.hook = fn
	c.mu.Unlock()
}

func (c *Catalog) before(op string) error {
	c.mu.Lock()
	hook := c.hook
	c.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op)
}

// NodeID returns the node's identity.
func (c *Catalog) NodeID() uint64 { return c.node }

// Segments returns a copy of the manifest.
func (c *Catalog) Segments() (map[uint32][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.segments), nil
}

// PutSegment stores a value.
func (c *Catalog) PutSegment(id uint32, value []byte) error {
	if err := c.before("put segment"); err != nil {
		return err
	}
	c.mu.Lock()
	c.segments[id] = slices.Clone(value)
	c.mu.Unlock()
	return nil
}

// DeleteSegment removes a value.
func (c *Catalog) DeleteSegment(id uint32) error {
	if err := c.before("delete segment"); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.segments, id)
	c.mu.Unlock()
	return nil
}

// Key returns the wrapped data key.
func (c *Catalog) Key() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.key), nil
}

// PutKey stores the wrapped data key.
func (c *Catalog) PutKey(value []byte) error {
	if err := c.before("put key"); err != nil {
		return err
	}
	c.mu.Lock()
	c.key = slices.Clone(value)
	c.mu.Unlock()
	return nil
}
