package embedded

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// state is what memory has of requests that are live, or have something in their outbox.
type state struct {
	live       map[string]time.Time // id -> deadline
	unrecorded map[string]struct{}
	byDigest   map[string]string // digest -> id
	byAgent    map[approval.Party]int
	byResource map[string]int
	rates      map[approval.Party]rate
	forgotten  time.Time // when rates were last forgotten
}

type rate struct {
	from   time.Time
	window time.Duration
	n      int
}

func (t *state) init() {
	t.live = map[string]time.Time{}
	t.unrecorded = map[string]struct{}{}
	t.byDigest = map[string]string{}
	t.byAgent = map[approval.Party]int{}
	t.byResource = map[string]int{}
	t.rates = map[approval.Party]rate{}
}

// put takes note of a request that is new or has changed.
func (t *state) put(r *approval.Request) {
	if len(r.Outbox) > 0 {
		t.unrecorded[r.ID] = struct{}{}
	} else {
		delete(t.unrecorded, r.ID)
	}
	_, was := t.live[r.ID]
	switch live := r.State.Live(); {
	case live:
		t.live[r.ID], t.byDigest[r.Digest] = r.Deadline(), r.ID
		if !was {
			t.byAgent[r.Agent]++
			t.byResource[r.Resource]++
		}
	case was:
		delete(t.live, r.ID)
		delete(t.byDigest, r.Digest)
		if t.byAgent[r.Agent]--; t.byAgent[r.Agent] == 0 {
			delete(t.byAgent, r.Agent)
		}
		if t.byResource[r.Resource]--; t.byResource[r.Resource] == 0 {
			delete(t.byResource, r.Resource)
		}
	}
}

// of yields the live request of a digest.
func (t *state) of(digest string) iter.Seq[string] {
	if id, ok := t.byDigest[digest]; ok {
		return slices.Values([]string{id})
	}
	return slices.Values[[]string](nil)
}

// newest yields ids before after, newest first.
func newest[V any](ids map[string]V, after string) iter.Seq[string] {
	var list []string
	for id := range ids {
		if after == "" || id < after {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(b, a) })
	return slices.Values(list)
}

// due yields the live requests that are past their deadline, the oldest deadline first.
func (t *state) due(now time.Time) iter.Seq[string] {
	deadlines := map[string]time.Time{}
	for id, deadline := range t.live {
		if !now.Before(deadline) {
			deadlines[id] = deadline
		}
	}
	return slices.Values(slices.SortedFunc(maps.Keys(deadlines), func(a, b string) int {
		return cmp.Or(deadlines[a].Compare(deadlines[b]), cmp.Compare(b, a))
	}))
}

// room says which bound a new request would break.
func (t *state) room(o *approval.Opening, now time.Time) error {
	l := &o.Limits
	for _, bound := range []struct {
		what        string
		have, limit int
	}{
		{approval.LimitAgent, t.byAgent[o.Agent], l.PerAgent},
		{approval.LimitResource, t.byResource[o.Resource], l.PerResource},
		{approval.LimitTotal, len(t.live), l.Total},
		{approval.LimitRate, t.rates[o.Agent].now(now, l.RateWindow), l.Rate},
	} {
		if bound.limit > 0 && bound.have >= bound.limit {
			return &approval.LimitError{What: bound.what, Limit: bound.limit}
		}
	}
	return nil
}

func (r rate) now(now time.Time, window time.Duration) int {
	if now.Sub(r.from) >= cmp.Or(window, time.Minute) {
		return 0
	}
	return r.n
}

func (t *state) count(o *approval.Opening, now time.Time) {
	window := cmp.Or(o.Limits.RateWindow, time.Minute)
	r := t.rates[o.Agent]
	if r.now(now, window) == 0 {
		r = rate{from: now, window: window}
	}
	r.n++
	t.rates[o.Agent] = r
	t.forgetRates(now)
}

// forgetRates drops what no longer counts, so that agents of long ago take no memory.
func (t *state) forgetRates(now time.Time) {
	if now.Sub(t.forgotten) < time.Minute {
		return
	}
	t.forgotten = now
	for agent, r := range t.rates {
		if now.Sub(r.from) >= r.window {
			delete(t.rates, agent)
		}
	}
}

// clock is a wall clock that never goes back.
type clock struct {
	mu     sync.Mutex
	wall   func() time.Time
	anchor time.Time // with its monotonic reading
	base   time.Time // what the clock said at anchor
	last   time.Time
}

func (c *clock) init(wall func() time.Time, last time.Time) {
	c.wall = wall
	c.anchor = wall()
	c.base = c.anchor.Round(0)
	if last.After(c.base) {
		c.base = last
	}
	c.last = c.base
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall := c.wall()
	for _, t := range []time.Time{c.base.Add(wall.Sub(c.anchor)), wall.Round(0)} {
		if t.After(c.last) {
			c.last = t
		}
	}
	return c.last.UTC()
}
