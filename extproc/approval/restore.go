package approval

import (
	"context"
	"errors"
	"fmt"
)

// HoldAgainst voids every live request of which the journal has a later revision than the store: the store was put back, from a
// backup perhaps, and a grant in it may have been spent since. recorded returns the highest revision in the journal of each request,
// by id; it is not called if nothing is live. Call it at a start, before anything is spent; later this desk remembers what it has
// seen.
func (d *Desk) HoldAgainst(ctx context.Context, recorded func() (map[string]uint64, error)) (voided int, err error) {
	live, err := d.live(ctx)
	if err != nil || len(live) == 0 {
		return 0, err
	}
	revs, err := recorded()
	if err != nil {
		return 0, fmt.Errorf("hold the approvals against the journal: %w", err)
	}
	for id, rev := range live {
		if rev >= revs[id] {
			continue
		}
		lost := func(r *Request) bool { return r.Rev < revs[id] }
		if err := d.voidRolledBack(ctx, id, lost); err != nil && !errors.Is(err, ErrNotFound) {
			return voided, fmt.Errorf("void request %s, of which the journal knows more: %w", id, err)
		}
		voided++
	}
	return voided, nil
}

// live returns the revisions of all live requests, by id.
func (d *Desk) live(ctx context.Context) (map[string]uint64, error) {
	revs := map[string]uint64{}
	for page, err := range Pages(ctx, d.store.List, Filter{States: []State{Pending, Approved}}) {
		if err != nil {
			return nil, fmt.Errorf("list live requests: %w", err)
		}
		for i := range page {
			revs[page[i].ID] = page[i].Rev
		}
	}
	return revs, nil
}
