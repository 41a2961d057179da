package approval

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
)

// Why a request is voided.
const (
	reasonPolicy     = "the rules that this depends on have changed since it was asked"
	reasonAsks       = "policy now asks for other approvals of this operation"
	reasonPeople     = "whose operation it is, is now read in another way"
	reasonCount      = "the approvals of this do not count as they are counted now"
	reasonDemand     = "the resource now demands another sign-in"
	reasonRolledBack = "the store has lost a change of this request that was acknowledged"
	reasonFenced     = "the store was restarted or failed over after the approval, so that it cannot be known whether it was used"
)

// void closes a live request because what it asks about has changed. If only is not nil it must return true, or nothing is done.
func (d *Desk) void(ctx context.Context, id, why string, only func(*Request) bool) error {
	_, err := d.update(ctx, id, func(now time.Time, r *Request) error {
		if !r.State.Live() || only != nil && !only(r) {
			return ErrClosed
		}
		return d.voidNow(now, r, why)
	})
	return err
}

func (d *Desk) voidNow(now time.Time, r *Request, why string, members ...gate.Member) error {
	from := r.State
	r.State, r.Closed, r.Reason = Voided, now, why
	members = append(members, because(why), gate.Member{Name: "from", Value: string(from)})
	return d.note(r, RecordVoided, r.opener(), members...)
}

// StartVoiding runs VoidOthers beside all else, whatever becomes of ctx, and has failed told of an error that stop did not cause.
// stop ends it, and returns when nothing more is voided: what is left is for the next rules.
func (d *Desk) StartVoiding(ctx context.Context, rules map[string]string, failed func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go guard.Func("the voiding of requests", func() {
		defer close(done)
		n, err := d.VoidOthers(ctx, rules)
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
		if n > 0 {
			d.log.Info("requests for approval were voided, because their rules have changed", "requests", n)
		}
	})()
	return func() { cancel(); <-done }
}

// VoidOthers voids open requests that were made under other rules than now, so that whatever people see in the queue can still be
// approved. rules has the digest of its rules for each resource of this gateway; requests for other resources are not its to void.
// It returns how many it voided.
func (d *Desk) VoidOthers(ctx context.Context, rules map[string]string) (int, error) {
	voided := 0
	for page, err := range Pages(ctx, d.store.List, Filter{States: []State{Pending, Approved}}) {
		if err != nil {
			return voided, fmt.Errorf("void requests under other rules: %w", err)
		}
		n, err := d.voidAll(ctx, page, rules)
		if voided += n; err != nil {
			return voided, err
		}
	}
	return voided, nil
}

// voidAll voids those of a page that are under other rules, until one cannot be.
func (d *Desk) voidAll(ctx context.Context, page []Request, rules map[string]string) (int, error) {
	others := func(r *Request) bool {
		now, ours := rules[r.Resource]
		return ours && r.RulesDigest != now
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var voided atomic.Int64
	each(ctx, "the voiding of requests", page, func(r Request) {
		if !others(&r) {
			return
		}
		err := errors.New("the voiding of requests panicked")
		defer func() {
			if err != nil {
				stop(fmt.Errorf("void request %s: %w", r.ID, err))
			}
		}()
		if err = d.void(ctx, r.ID, reasonPolicy, others); err == nil {
			voided.Add(1)
		} else if errors.Is(err, ErrClosed) || errors.Is(err, ErrNotFound) {
			err = nil
		}
	})
	return int(voided.Load()), context.Cause(ctx)
}
