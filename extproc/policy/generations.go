package policy

import (
	"sync"

	"github.com/countersign/countersign/extproc/gate"
)

// generations is a bounded cache of two maps. New entries go into the young one. When that is full it becomes the old one, and
// the old one is dropped. An entry that is found in the old one moves to the young one. So the cache holds at most twice size
// entries and twice maxWeight bytes, and a hit in the young one costs one read lock and one look-up.
type generations[K comparable, V any] struct {
	size  int
	weigh func(K, V) int // estimates the bytes of an entry; nil if entries are small whatever an agent does

	mu         sync.RWMutex
	young, old map[K]V
	weight     int // of young
}

// maxWeight is how many bytes a generation may have; an entry may have an eighth of it. Agents influence what is remembered: a
// token's claims, and the reasons and paths that rules compute.
const maxWeight = 8 << 20

func newGenerations[K comparable, V any](size int, weigh func(K, V) int) *generations[K, V] {
	return &generations[K, V]{size: size, weigh: weigh, young: make(map[K]V)}
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
	weight := 0
	if g.weigh != nil {
		if weight = g.weigh(k, v); weight > maxWeight/8 {
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.young) >= g.size || g.weight+weight > maxWeight {
		g.old, g.young, g.weight = g.young, make(map[K]V), 0
	}
	if _, known := g.young[k]; !known {
		g.weight += weight
	}
	g.young[k] = v
}

// weighVerdict estimates the bytes of a verdict.
func weighVerdict(_ verdictKey, v gate.Verdict) int {
	n := 256
	rule := func(r *gate.Rule) { n += 64 + len(r.ID) + len(r.Reason) }
	for i := range v.Rules {
		rule(&v.Rules[i])
	}
	for i := range v.Asks {
		rule(&v.Asks[i].Rule)
		n += len(v.Asks[i].Summary)
		for _, name := range v.Asks[i].Approvers {
			n += 16 + len(name)
		}
	}
	for _, r := range v.Redactions {
		n += 64 + len(r.Path) + len(r.Detect)
	}
	return n
}

// weighValue estimates the bytes of a JSON value as OPA holds it.
func weighValue(v any) int {
	n := 100
	switch v := v.(type) {
	case string:
		n += len(v)
	case []string:
		for _, s := range v {
			n += 100 + len(s)
		}
	case []any:
		for _, e := range v {
			n += weighValue(e)
		}
	case gate.Object:
		for _, m := range v {
			n += 200 + len(m.Name) + weighValue(m.Value)
		}
	}
	return n
}
