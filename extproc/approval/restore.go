package approval

import (
	"context"
	"errors"
	"fmt"
)

// HoldAgainst voids every live request that the store has an older revision of than the journal tells of: the store was put
// back to what it was, from a backup perhaps, and a grant in it may have been used since. recorded reads the highest revision
// that is recorded of each request, by id; it is not called where nothing is live. It is for a start, before anything is
// spent: later this desk remembers what it has seen.
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
		if err := d.voidRolledBack(ctx, id, revs[id]); err != nil && !errors.Is(err, ErrNotFound) {
			return voided, fmt.Errorf("void request %s, of which the journal knows more: %w", id, err)
		}
		voided++
	}
	return voided, nil
}

// live are the revisions of all live requests, by id.
func (d *Desk) live(ctx context.Context) (map[string]uint64, error) {
	revs := map[string]uint64{}
	filter := Filter{States: []State{Pending, Approved}, Size: 500}
	for {
		page, err := d.store.List(ctx, filter)
		if err != nil {
			return nil, fmt.Errorf("list what is live: %w", err)
		}
		for i := range page.Requests {
			revs[page.Requests[i].ID] = page.Requests[i].Rev
		}
		if filter.After = page.Next; page.Next == "" {
			return revs, nil
		}
	}
}
