package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/countersign/countersign/extproc/gate"
)

// verdictKey identifies a remembered verdict. It has the package because the input does not: a resource can name another one
// after a reload.
type verdictKey struct {
	pkg   string
	input [sha256.Size]byte
}

// Evaluate returns what the package of op's resource and global say of op. With an error the verdict denies, and has only the
// digests of the policies.
func (s *Set) Evaluate(ctx context.Context, op *gate.Operation) (gate.Verdict, error) {
	v, err := s.evaluate(ctx, op)
	if err == nil {
		err = s.keeps(op.Resource.Kind, v.Limits)
	}
	if err != nil {
		v, err = gate.Verdict{}, fmt.Errorf("evaluate policy %q: %w", op.Resource.Policy, err)
	}
	v.PolicyDigest, v.RulesDigest = s.digest, s.RulesDigest(op.Resource.Policy)
	return v, err
}

func (s *Set) evaluate(ctx context.Context, op *gate.Operation) (gate.Verdict, error) {
	p, ok := s.packages[op.Resource.Policy]
	if !ok {
		return gate.Verdict{}, errors.New("there are no rules of that name")
	}
	if kind := op.Resource.Kind; !slices.Contains(p.kinds, kind) || op.Detail == nil || op.Detail.Key() != kind {
		return gate.Verdict{}, fmt.Errorf("it is for resources of kind %q, and this operation is none on one", p.kinds)
	}
	// The gate has made the input before, to digest it. Made here again, it proves that the object is valid: in order, no name
	// twice.
	input, err := op.Input()
	if err != nil {
		return gate.Verdict{}, err
	}
	var key verdictKey
	remembers := s.verdicts != nil && !p.uses.context && !p.uses.any(op.Detail.Volatile())
	if remembers {
		key = verdictKey{pkg: p.name, input: sha256.Sum256(input)}
		if v, ok := s.verdicts.get(key); ok {
			return v, ctx.Err()
		}
	}
	if len(input) > largeInput {
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		case <-ctx.Done():
			return gate.Verdict{}, ctx.Err()
		}
	}
	b := newBuilder(s.terms)
	defer b.release()
	term, err := b.input(op, s.principals)
	if err != nil {
		return gate.Verdict{}, err
	}
	v, err := s.judge(ctx, p, term, op.Context.Time, nil)
	if err == nil && remembers {
		s.verdicts.put(key, clipped(v))
	}
	return v, err
}

// clipped clips v's lists, so that nobody who shares them can append to them in place.
func clipped(v gate.Verdict) gate.Verdict {
	v.Rules, v.Asks, v.Redactions = slices.Clip(v.Rules), slices.Clip(v.Asks), slices.Clip(v.Redactions)
	return v
}

// judge runs the query of p on input and combines what it says. With an error the verdict is not to be used.
func (s *Set) judge(ctx context.Context, p *preparedPackage, input *ast.Term, now time.Time, tracer topdown.QueryTracer) (v gate.Verdict, err error) {
	defer recovered(&err)
	var sets [2]Sets
	if err := s.say(ctx, p.question, input, now, tracer, &sets); err != nil {
		return gate.Verdict{}, err
	}
	if len(p.beside) > 0 {
		if sets, err = s.askAside(ctx, p, input, now, tracer, sets); err != nil {
			return gate.Verdict{}, err
		}
	}
	return combine(sets[:]...)
}

// say adds to sets what q finds. The second set is global's.
func (s *Set) say(ctx context.Context, q *question, input *ast.Term, now time.Time, tracer topdown.QueryTracer, sets *[2]Sets) error {
	answer, err := s.run(ctx, q, input, now, tracer)
	if err != nil {
		return err
	}
	for _, r := range q.reads {
		into := &sets[0]
		if r.pkg == global {
			into = &sets[1]
		}
		if err := s.decode(into, r, answer[r.variable]); err != nil {
			return err
		}
	}
	return nil
}

// recovered turns a panic of the policy engine into an error: the input that caused it came from an agent, who must not be
// able to stop the gateway with it.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("the policy engine failed: %v", r)
	}
}

// noMetadata is empty request metadata. Without it OPA makes a map for each evaluation.
var noMetadata = map[string]any{}

func (s *Set) run(ctx context.Context, asked *question, input *ast.Term, now time.Time, tracer topdown.QueryTracer) (answer topdown.QueryResult, err error) {
	defer recovered(&err)
	limit := &limit{ctx: ctx, now: s.options.Now, end: s.options.Now().Add(s.options.Timeout)}
	q := topdown.NewQuery(asked.query).
		WithQueryCompiler(asked.qc).
		WithCompiler(s.compiler).
		WithStore(s.store).
		WithTransaction(s.txn).
		WithInput(input).
		WithStrictBuiltinErrors(true).
		WithMetrics(metrics.NoOp()).
		WithRequestMetadata(noMetadata).
		WithTime(now).
		WithCancel(limit)
	if tracer != nil {
		q = q.WithQueryTracer(tracer)
	}
	answers := 0
	err = q.Iter(ctx, func(r topdown.QueryResult) error {
		answers++
		answer = r
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case limit.hit.Load():
		return nil, fmt.Errorf("it took longer than %v", s.options.Timeout)
	case err != nil:
		return nil, err
	case answers != 1:
		return nil, fmt.Errorf("the query has %d answers, not 1", answers)
	}
	return answer, nil
}

// decode adds the elements of the set r to into.
func (s *Set) decode(into *Sets, r said, t *ast.Term) error {
	if t == nil {
		return fmt.Errorf("%s.%s is undefined", r.pkg, r.kind)
	}
	set, ok := t.Value.(ast.Set)
	switch {
	case !ok:
		return fmt.Errorf("%s.%s is a %s, not a set", r.pkg, r.kind, ast.ValueName(t.Value))
	case set.Len() > maxElements:
		return fmt.Errorf("%s.%s has more than %d elements", r.pkg, r.kind, maxElements)
	}
	for _, t := range set.Slice() {
		e, err := decodeElement(r.kind, t.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", r.pkg, err)
		}
		if err := s.take(into, r, e); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) take(into *Sets, r said, e *element) error {
	switch r.kind {
	case allowSet:
		into.Allow = append(into.Allow, e.rule(r.pkg))
	case denySet:
		into.Deny = append(into.Deny, e.rule(r.pkg))
	case askSet:
		into.Ask = append(into.Ask, e.askRule(r.pkg))
	case redactSet:
		redaction := e.redaction()
		if err := s.checkRedaction(redaction); err != nil {
			return fmt.Errorf("%s: %w", r.pkg, err)
		}
		into.Redact = append(into.Redact, redaction)
	case limitSet:
		into.Limit = into.Limit.Least(e.limits)
	default:
		return fmt.Errorf("%s has a set that nobody knows", r.pkg)
	}
	return nil
}

// checkRedaction checks each redaction once. There are few of them: nearly all are written out in the policy.
func (s *Set) checkRedaction(r gate.Redaction) error {
	if err, ok := s.redactions.get(r); ok {
		return err
	}
	err := checkRedaction(s.options.CheckRedaction, r)
	s.redactions.put(r, err)
	return err
}

func checkRedaction(check func(gate.Redaction) error, r gate.Redaction) error {
	if check == nil {
		return errors.New("nothing here can redact, so a policy with a redact rule cannot be kept")
	}
	if err := check(r); err != nil {
		return fmt.Errorf("redact %q: %w", r.Name(), err)
	}
	return nil
}

// limit ends an evaluation when its time is up or its context done. OPA asks it before every expression and in the
// built-ins that can run long.
type limit struct {
	ctx   context.Context
	now   func() time.Time
	end   time.Time
	asked int
	hit   atomic.Bool
}

func (l *limit) Cancel() { l.hit.Store(true) }

func (l *limit) Cancelled() bool {
	l.asked++
	if l.asked%64 == 0 && (l.ctx.Err() != nil || l.now().After(l.end)) {
		l.hit.Store(true)
	}
	return l.hit.Load()
}

var _ gate.Policy = (*Set)(nil)
