package subject

import (
	"hash/maphash"
	"strings"
)

// Bounds of a Cache.
const (
	cacheEntries = 1024 // entries; when full, cacheEvict of them make room
	cacheEvict   = 64
	cacheSubject = 256 // bytes of the longest subject kept
	cacheSeen    = 512 // slots that remember subjects seen once
	cacheFanout  = 512 // subscriptions of the largest result kept; delivering more dwarfs the match
)

// Cache keeps match results of one publisher by subject, so that a repeated subject costs one map
// lookup. A result is kept from the second time its subject is asked for: subjects that are used
// once, as reply inboxes are, neither fill the cache nor push others out. Results of an older
// generation of the sublist are forgotten. The zero value is ready for use; a Cache does not lock.
type Cache[T comparable] struct {
	generation uint64
	last       *cached[T] // the entry used last
	entries    map[string]*cached[T]
	seen       []uint32 // hash of the last subject missed, by slot
	seed       maphash.Seed
}

type cached[T comparable] struct {
	subject string
	result  Result[T]
}

// Get returns the result kept for subject at this generation of the sublist, or nil.
func (c *Cache[T]) Get(generation uint64, subject string) *Result[T] {
	if generation != c.generation {
		c.generation = generation
		c.last = nil
		clear(c.entries)
		return nil
	}
	if c.last != nil && c.last.subject == subject {
		return &c.last.result
	}
	e := c.entries[subject]
	if e == nil {
		return nil
	}
	c.last = e
	return &e.result
}

// Put offers the result of a match that Get did not have, at the generation read before the match.
// Cache copies what it keeps.
func (c *Cache[T]) Put(generation uint64, subject string, r *Result[T]) {
	if generation != c.generation || len(subject) > cacheSubject || len(r.Plain) > cacheFanout {
		return
	}
	if c.seen == nil {
		c.seen = make([]uint32, cacheSeen)
		c.seed = maphash.MakeSeed()
	}
	h := maphash.String(c.seed, subject)
	slot, mark := &c.seen[h%cacheSeen], uint32(h>>32)|1
	if *slot != mark {
		*slot = mark
		return
	}
	if c.entries == nil {
		c.entries = make(map[string]*cached[T])
	}
	if len(c.entries) >= cacheEntries {
		n := 0
		for old := range c.entries {
			delete(c.entries, old)
			if n++; n == cacheEvict {
				break
			}
		}
	}
	e := &cached[T]{subject: strings.Clone(subject), result: r.Clone()}
	c.entries[e.subject] = e
	c.last = e
}

// Len returns the number of results kept.
func (c *Cache[T]) Len() int { return len(c.entries) }

// Clear forgets all results, for use with another sublist.
func (c *Cache[T]) Clear() {
	c.generation = 0
	c.last = nil
	clear(c.entries)
}
