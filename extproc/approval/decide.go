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

// Answer is what a person sends.
type Answer struct {
	Approve bool
	Reason  string        // cut after 2,000 bytes
	Card    string        // digest of the card that they saw
	Think   time.Duration // from when the card was shown to them; 0 where that is not known
}

const (
	reasonBytes = 2000
	clockSkew   = time.Minute // between the people's issuer and the store
)

// Decide takes a person's answer. On return without an error it is stored, recorded, and will not be lost or changed; the
// request says what came of it. The refusals are the errors of this package, in this order: ErrNotFound, ErrClosed,
// ErrOwnOperation, ErrNotApprover, ErrDecidedAlready, ErrUnclearPerson, ErrAuthentication, ErrOldCard. Each is recorded.
//
// After any other error the answer may or may not stand; asking again says which. What a person has sent counts, also where they
// do not wait for it: that ctx ends is nothing to the answer.
func (d *Desk) Decide(ctx context.Context, by Approver, id string, a Answer) (Request, error) {
	ctx, cancel := carried(ctx)
	defer cancel()
	decision := Decision{
		By: by, Approve: a.Approve, Reason: cut(valid(a.Reason), reasonBytes), Card: a.Card, Think: max(0, a.Think), Nonce: rand.Text(),
	}
	expired := false
	r, err := d.update(ctx, id, func(now time.Time, r *Request) error {
		expired = false
		if slices.ContainsFunc(r.Decisions, func(x Decision) bool { return x.Nonce == decision.Nonce }) {
			return errDone
		}
		if r.Due(now) {
			expired = true
			return d.expire(now, r)
		}
		if err := d.may(now, &decision, r); err != nil {
			return err
		}
		return d.decide(now, decision, r)
	})
	switch {
	case errors.Is(err, errDone):
		err = d.record(ctx, &r)
	case err == nil && expired:
		err = ErrClosed
	}
	if problem := refusalOf(err); problem != "" {
		return r, errors.Join(err, d.recordRefused(ctx, &r, id, problem, &decision))
	}
	if err != nil {
		return r, fmt.Errorf("decide on request %s: %w", id, err)
	}
	return r, nil
}

// errDone says that the call has already had its effect: the store's client repeated it after a lost answer.
var errDone = errors.New("done already")

func (d *Desk) decide(now time.Time, decision Decision, r *Request) error {
	decision.At = now
	decision.Think = min(decision.Think, now.Sub(r.Created))
	r.Decisions = append(r.Decisions, decision)
	word := "approve"
	switch {
	case !decision.Approve:
		word = "reject"
		r.State, r.Closed, r.Reason = Rejected, now, decision.Reason
	case r.quorum():
		r.State, r.GrantExpires = Approved, now.Add(r.GrantTTL)
	}
	return d.note(r, RecordDecided, r.opener(), decided(word, "", "", &decision)...)
}

// may says why this person's answer does not count. There is no exception for anyone.
func (d *Desk) may(now time.Time, x *Decision, r *Request) error {
	by := &x.By
	decided := different // whether by has
	for i := range r.Decisions {
		if is := by.is(&r.Decisions[i].By); is == one || decided != one && is == unclear {
			decided = is
		}
	}
	switch {
	case r.State != Pending:
		return ErrClosed
	case by.Issuer == "" || by.Issuer != d.people || by.Subject == "":
		return ErrNotApprover
	case r.whose(by) == one:
		return ErrOwnOperation
	case !slices.ContainsFunc(r.Asks, func(a AskRule) bool { return a.Names(by) }):
		return ErrNotApprover
	case decided == one:
		return ErrDecidedAlready
	case r.whose(by) != different || decided != different:
		return ErrUnclearPerson
	case !r.Demand.met(now, by):
		return ErrAuthentication
	case x.Card == "" || x.Card != r.CardDigest:
		return ErrOldCard
	default:
		return nil
	}
}

func (m *Demand) met(now time.Time, by *Approver) bool {
	if len(m.ACR) > 0 && (by.ACR == "" || !slices.Contains(m.ACR, by.ACR)) {
		return false
	}
	if m.MaxAge <= 0 {
		return true
	}
	age := now.Sub(by.AuthTime)
	return !by.AuthTime.IsZero() && age <= m.MaxAge && age >= -clockSkew
}

// MayDecide says why this person could not decide on r now; nil when they could. It is for showing a form: Decide asks again.
func (d *Desk) MayDecide(by Approver, r *Request, now time.Time) error {
	return d.may(now, &Decision{By: by, Card: r.CardDigest}, r)
}

// refusalOf is the word for a refusal in records; empty for what is none.
func refusalOf(err error) string {
	for _, known := range []struct {
		err  error
		word string
	}{
		{ErrNotFound, "not-found"},
		{ErrClosed, "closed"},
		{ErrOwnOperation, "own-operation"},
		{ErrNotApprover, "not-approver"},
		{ErrDecidedAlready, "decided-already"},
		{ErrUnclearPerson, "unclear-person"},
		{ErrAuthentication, "authentication"},
		{ErrOldCard, "old-card"},
	} {
		if errors.Is(err, known.err) {
			return known.word
		}
	}
	return ""
}

// recordRefused waits for the disk: whoever tries many answers is held to its speed.
func (d *Desk) recordRefused(ctx context.Context, r *Request, id, problem string, x *Decision) error {
	about := *r
	if about.ID == "" {
		about.ID = cut(valid(id), 64)
	}
	attempted := "reject"
	if x.Approve {
		attempted = "approve"
	}
	refused := *x
	refused.Card = cut(valid(x.Card), 128)
	body, err := d.body(&about, about.opener(), "refused/"+x.Nonce, decided("refused", attempted, problem, &refused)...)
	if err != nil {
		return err
	}
	record := &gate.Record{Type: RecordDecided, Op: about.Op, Body: line(body)}
	if _, err := d.recorder.Append(context.WithoutCancel(ctx), record); err != nil {
		return fmt.Errorf("record a refused decision: %w", err)
	}
	return nil
}

// cut shortens s to at most n bytes of whole characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
