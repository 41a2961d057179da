package lane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/identity"
)

// tokenEnds is when the time of the agent's token is over: its `exp`, and for an operation (or its session) that began after that, while the token
// was accepted all the same because two clocks may differ, the end of this leeway.
func (a *Attempt) tokenEnds() time.Time {
	v, began := a.Op.Principal.Verified, a.Started
	if !a.since.IsZero() {
		began = a.since
	}
	if began.Before(v.Expires) {
		return v.Expires
	}
	return v.Accepted
}

// tokenOver says why the agent's token, good when the operation began, is not good now; nil where it is.
func (a *Attempt) tokenOver() *identity.Refusal {
	return a.lane.tokenOver(a.Op.Principal, a.tokenEnds())
}

func (l *Lane) tokenOver(p *gate.Principal, ends time.Time) *identity.Refusal {
	if !l.Now().Before(ends) {
		return &identity.Refusal{Reason: identity.Expired, Detail: "the token expired at " + stamp(p.Verified.Expires)}
	}
	var why *identity.Refusal
	if err := l.State().Identity.Still(p); err != nil && !errors.As(err, &why) {
		why = &identity.Refusal{Reason: identity.Unavailable, Detail: err.Error()}
	}
	return why
}

// refuseToken refuses an operation whose token is not good any more. It always returns false.
func (a *Attempt) refuseToken(ctx context.Context, why *identity.Refusal) bool {
	a.challenge = why.Challenge()
	return a.Refuse(ctx, gate.Refusal{Problem: gate.Unauthenticated, Detail: fmt.Sprintf(
		"The credential was good when this operation came, and is not now (%s): %s. Nothing was done. Get a new token, and send the identical request with it.", why.Reason, why.Detail)})
}

// pendingNote is what the agent of an operation that people are still asked about has to do beside sending it again.
func (a *Attempt) pendingNote() string {
	if a.Ruling.Pending() == nil {
		return ""
	}
	if why := a.tokenOver(); why != nil {
		return fmt.Sprintf(" Send it with a new token: the credential was good when this operation came, and is not now (%s): %s.", why.Reason, why.Detail)
	}
	return ""
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// lookAgain is how long a token is believed to expire when its time says: a clock can be set.
const lookAgain = time.Minute

// ending is an operation under way that ends with its token.
type ending struct {
	lane      *Lane
	principal *gate.Principal
	ends      time.Time
	cut       func(why *identity.Refusal)
	timer     *time.Timer
}

// endings are all of them.
type endings struct {
	mu sync.Mutex
	of map[*ending]bool
}

// EndWithToken has cut be called, once and from a goroutine of its own, when the agent's token is not good any more: its time is
// over, or a reload has revoked it. Where the resource does not have that, cut is never called. stop is to be called when the
// operation has ended; cut can be under way then.
func (a *Attempt) EndWithToken(cut func(why *identity.Refusal)) (stop func()) {
	if !a.Resource.EndWithToken {
		return func() {}
	}
	e := &ending{lane: a.lane, principal: a.Op.Principal, ends: a.tokenEnds(), cut: cut}
	all := &a.lane.endings
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.of == nil {
		all.of = map[*ending]bool{}
	}
	all.of[e] = true
	e.timer = time.AfterFunc(e.wait(), guard.Func("the end of a token", e.look))
	if a.State != a.lane.State() { // a reload has not seen this one
		e.timer.Reset(0)
	}
	return func() {
		e.timer.Stop()
		all.mu.Lock()
		defer all.mu.Unlock()
		delete(all.of, e)
	}
}

func (e *ending) wait() time.Duration { return min(e.ends.Sub(e.lane.Now()), lookAgain) }

// look is the timer's.
func (e *ending) look() {
	why, all := e.lane.tokenOver(e.principal, e.ends), &e.lane.endings
	all.mu.Lock()
	under := all.of[e]
	if why == nil && under {
		e.timer.Reset(e.wait())
	}
	if why != nil {
		delete(all.of, e)
	}
	all.mu.Unlock()
	if why != nil && under {
		e.cut(why)
	}
}

// look looks at every token, after a reload.
func (all *endings) look() {
	all.mu.Lock()
	defer all.mu.Unlock()
	for e := range all.of {
		e.timer.Reset(0)
	}
}
