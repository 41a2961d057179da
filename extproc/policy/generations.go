package policy

import "sync"

// generations is a bounded cache of two maps. What is put goes into the young one; when that is full it becomes the old
// one and the old one is dropped; what is found in the old one moves up. It holds at most twice its size, forgets what was
// not asked for in the last size puts, and a hit costs one read lock and one look-up.
type generations[K comparable, V any] struct {
	size int

	mu         sync.RWMutex
	young, old map[K]V
}

func newGenerations[K comparable, V any](size int) *generations[K, V] {
	return &generations[K, V]{size: size, young: make(map[K]V)}
}

func (g *generations[K, V]) get(k K) (V, bool) {
	g.mu.RLock()
	v, ok := g.young[k]
	if ok {
		g.mu.RUnlock()
		return v, true
	}
	v, ok = g.old[k]
	g.mu.RUnlock()
	if ok {
		g.put(k, v)
	}
	return v, ok
}

func (g *generations[K, V]) put(k K, v V) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.young) >= g.size {
		g.old, g.young = g.young, make(map[K]V)
	}
	g.young[k] = v
}
