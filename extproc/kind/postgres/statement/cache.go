package statement

import (
	"container/list"
	"sync"
)

// A cache keeps what was used last, up to a size.
type cache[K comparable, V any] struct {
	max int // in bytes of text
	one int // and of one entry

	mu    sync.Mutex
	size  int
	order *list.List // of *entry[K, V], the last used first
	items map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
	size  int
}

func newCache[K comparable, V any](most, one int) *cache[K, V] {
	return &cache[K, V]{max: most, one: one, order: list.New(), items: map[K]*list.Element{}}
}

func (c *cache[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		var none V
		return none, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*entry[K, V]).value, true //nolint:forcetypeassert // only put adds to it
}

func (c *cache[K, V]) put(key K, value V, size int) {
	size += 64
	if size > c.one {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok {
		return
	}
	c.items[key] = c.order.PushFront(&entry[K, V]{key, value, size})
	for c.size += size; c.size > c.max; {
		last := c.order.Remove(c.order.Back()).(*entry[K, V]) //nolint:forcetypeassert // as above
		delete(c.items, last.key)
		c.size -= last.size
	}
}

type parseKey struct {
	text                      string
	standardConformingStrings bool
}

// parsed are the texts that were parsed last. A tree takes some twenty times the memory of its text.
var parsed = newCache[parseKey, []Statement](1<<20, 32<<10)
