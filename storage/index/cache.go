package index

import (
	"container/list"
	"sync"
	"sync/atomic"
)

// Cache keeps the blocks that were used last, up to a number of bytes. All indexes of a node share
// one; it is safe for concurrent use. Whatever is in it is in the indexes' stores too.
type Cache struct {
	owners atomic.Uint64 // how many indexes have used it

	mu     sync.Mutex
	budget int
	bytes  int
	blocks map[cacheKey]*list.Element
	recent list.List // of *cached, the one used last in front
}

type cacheKey struct{ owner, key uint64 }

type cached struct {
	key   cacheKey
	block *block
}

// cachedOverhead is what a cached block takes beside its bytes, about.
const cachedOverhead = 512

// NewCache returns a cache of at most budget bytes; at least one block is kept.
func NewCache(budget int) *Cache {
	return &Cache{budget: budget, blocks: map[cacheKey]*list.Element{}}
}

func (c *Cache) get(k cacheKey) *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.blocks[k]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cached).block
}

func (c *Cache) put(k cacheKey, b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.blocks[k]; e != nil { // two readers have missed it at once
		c.dropLocked(e)
	}
	c.blocks[k] = c.recent.PushFront(&cached{k, b})
	c.bytes += len(b.raw) + cachedOverhead
	for c.bytes > c.budget && c.recent.Len() > 1 {
		c.dropLocked(c.recent.Back())
	}
}

func (c *Cache) drop(k cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.blocks[k]; e != nil {
		c.dropLocked(e)
	}
}

func (c *Cache) dropLocked(e *list.Element) {
	x := c.recent.Remove(e).(*cached)
	delete(c.blocks, x.key)
	c.bytes -= len(x.block.raw) + cachedOverhead
}

// Bytes returns about how many bytes the cache holds.
func (c *Cache) Bytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// forget drops all blocks of an owner.
func (c *Cache) forget(owner uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, e := range c.blocks {
		if k.owner == owner {
			c.dropLocked(e)
		}
	}
}
