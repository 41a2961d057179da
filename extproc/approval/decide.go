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
	Think   time.Duration // from when the card was shown to them; 0 if that is not known
}

const (
	reasonBytes = 2000
	clockSkew   = time.Minute // between the people's issuer and the store
)

// Decide takes a person's answer. When it returns without an error the answer is stored, recorded and final, and the request says
// what came of it. An answer can be refused with ErrNotFound, ErrClosed, ErrOwnOperation, ErrNotApprover, ErrDecidedAlready,
// ErrUnclearPerson, ErrAuthentication or ErrOldCard; each refusal is recorded.
//
// After any other error the answer may or may not stand; the request, read again, says which. An answer counts even if ctx ends: the
// person has sent it.
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

// errDone says that nothing is left to do: a call that the store's client repeats after a lost answer had its effect already.
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

// may says why this person's answer does not count; nil if it does. Nobody is exempt.
func (d *Desk) may(now time.Time, x *Decision, r *Request) error {
	by := &x.By
	decided := different // is by one of those who have decided already?
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

// met reports whether by has signed in as strongly and as recently as m demands.
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

// MayDecide says why this person could not decide on r now; nil if they could. It is for showing a form: Decide checks again.
func (d *Desk) MayDecide(by Approver, r *Request, now time.Time) error {
	return d.may(now, &Decision{By: by, Card: r.CardDigest}, r)
}

// refusalOf returns the word for a refusal in records; empty if err is none.
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

// recordRefused records a refused answer. It waits for the disk, which slows down whoever tries many answers.
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
