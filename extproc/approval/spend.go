package approval

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// Grant lets one operation through. Only [Desk.Spend] makes one that does; the zero value is for no operation.
type Grant struct {
	op      string
	request Request
}

// For reports whether the grant is for the operation with this id.
func (g Grant) For(op string) bool { return op != "" && g.op == op }

// Request is the request that was granted, as it was spent.
func (g Grant) Request() Request { return g.request }

// Granted returns the live grant for a digest, for policy to see. It does not spend it.
func (d *Desk) Granted(ctx context.Context, digest string) (Request, bool, error) {
	if digest == "" {
		return Request{}, false, nil
	}
	page, err := d.store.List(ctx, Filter{Digest: digest})
	if err != nil {
		return Request{}, false, fmt.Errorf("look for a grant: %w", err)
	}
	if len(page.Requests) != 1 || page.Requests[0].State != Approved || page.Requests[0].Digest != digest {
		return Request{}, false, nil
	}
	return page.Requests[0], true, nil
}

// Spending is an operation that wants to use a grant.
type Spending struct {
	Op      string        // id of this attempt
	TraceID string        // of this attempt; empty if it has none of its own
	Digest  string        // of the operation
	Verdict gate.Verdict  // of policy now, with the approval in its context
	People  []gate.Person // whose operation it is, as its token says now
}

// Spend uses the live grant for a digest. If it returns true the grant is this operation's alone, and the record of that is
// durable. If it returns false there is no grant: none was made, another operation spent it, it expired, or what it was made under
// has changed, which voids it. After an error nothing may be let through. If ctx has ended nothing is spent; a spend that has begun
// is carried through even if ctx ends.
func (d *Desk) Spend(ctx context.Context, s Spending) (Grant, bool, error) {
	if err := ctx.Err(); err != nil {
		return Grant{}, false, fmt.Errorf("spend a grant: %w", err)
	}
	ctx, cancel := carried(ctx)
	defer cancel()
	if s.Op == "" || s.Verdict.RulesDigest == "" || s.Verdict.Effect != gate.Ask && s.Verdict.Effect != gate.Allow {
		return Grant{}, false, nil
	}
	found, ok, err := d.Granted(ctx, s.Digest)
	if err != nil || !ok {
		return Grant{}, false, err
	}
	nonce := rand.Text()
	r, err := d.update(ctx, found.ID, func(now time.Time, r *Request) error {
		if r.Spent != nil && r.Spent.Nonce == nonce {
			return errDone
		}
		return d.spend(now, &s, nonce, r)
	})
	switch {
	case errors.Is(err, errDone):
		err = d.record(ctx, &r)
	case errors.Is(err, ErrFenced):
		if err = d.void(ctx, found.ID, reasonFenced, nil); err == nil {
			return Grant{}, false, nil
		}
	}
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrNotFound) {
		return Grant{}, false, nil
	}
	if err != nil {
		return Grant{}, false, fmt.Errorf("spend the grant of request %s: %w", found.ID, err)
	}
	if r.State != Spent || r.Spent == nil || r.Spent.Nonce != nonce {
		return Grant{}, false, nil
	}
	r.Card = found.Card
	return Grant{op: s.Op, request: r}, true, nil
}

// spend makes r spent, or expires or voids it if it cannot be.
func (d *Desk) spend(now time.Time, s *Spending, nonce string, r *Request) error {
	if r.State != Approved || r.Digest != s.Digest {
		return ErrClosed
	}
	if r.Due(now) {
		return d.expire(now, r)
	}
	if r.RulesDigest != s.Verdict.RulesDigest {
		return d.voidNow(now, r, reasonPolicy)
	}
	if !samePeople(r.People, s.People) {
		return d.voidNow(now, r, reasonPeople)
	}
	if !r.quorum() {
		return d.voidNow(now, r, reasonCount)
	}
	// A rule may allow what was approved. One that still asks must ask for what was approved, and nothing else.
	if s.Verdict.Effect == gate.Ask {
		same := func(a, b AskRule) bool { return compareAsks(a, b) == 0 }
		if !slices.EqualFunc(r.Asks, asksOf(s.Verdict), same) {
			return d.voidNow(now, r, reasonAsks)
		}
	}
	r.State, r.Closed = Spent, now
	r.Spent = &Spend{Op: s.Op, At: now, Nonce: nonce}
	return d.note(r, RecordSpent, attempt{s.Op, s.TraceID}, spentBy(r)...)
}
