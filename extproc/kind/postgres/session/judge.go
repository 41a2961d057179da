package session

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/kind/postgres/mask"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/redact"
)

// judged is a statement on its way to a ruling.
type judged struct {
	statement  statement.Statement
	state      *statement.State   // before it
	catalog    *statement.Catalog // by which it was read
	plans      *redact.Plans
	analysis   statement.Analysis
	fault      *failure // it cannot be understood
	parameters []parameter
	phase      string
	size       int    // bytes of the messages that have it
	earlier    []byte // digest of what the transaction, the query or the pipeline has done before it
	mixed      bool   // it stands among others of which some change something

	attempt *lane.Attempt
}

// The phases in which a statement is judged.
const (
	phaseParse   = "parse"   // it is prepared: there are no values yet
	phaseExecute = "execute" // it is to run
)

// weight is what judging a statement takes of the memory for each byte of its text and values: the text, the tree, the input.
const weight = 24

// look reads a statement by a state.
func (s *session) look(one statement.Statement, st *statement.State, parameters []parameter, size int) *judged {
	j := &judged{statement: one, phase: phaseExecute, parameters: parameters, size: size, state: st.Clone(), catalog: s.catalog, plans: s.target.Plans}
	analysis, err := one.Analyze(s.catalog, st)
	j.analysis = analysis
	switch {
	case err != nil:
		s.server.lane.Log.Warn("a statement could not be analysed", "session", s.id, "error", err)
		j.analysis.Access = statement.Unknown
		j.fault = &failure{code: codeDenied, message: "what this statement does cannot be told"}
	case analysis.Doubt != nil:
		j.fault = doubt(analysis.Doubt)
	}
	return j
}

// begin makes the attempt of a statement. The failure is why nothing can be judged.
func (s *session) begin(j *judged) *failure {
	st := s.server.lane.State()
	switch {
	case s.stopped() || st == nil:
		return stops()
	case s.changedUnder(st):
		return changed()
	}
	a := s.server.lane.Attempt(st, Protocol, s.resource, gate.Context{Peer: s.peer})
	a.Follow(s.first)
	a.Op.Context.RequestID = a.Op.ID
	a.Op.Verb, a.Op.Target = "UNKNOWN", ""
	if j.analysis.Command != "" {
		a.Op.Verb = j.analysis.Command
	}
	if text, err := j.statement.Normalized(); err == nil {
		a.Op.Target = gate.Recorded(text, gate.MaxRecorded)
	}
	a.Op.Detail = s.detail(j)
	a.Op.Fits = j.fits
	a.Op.Guess = func(context.Context) []string { return s.estimate(j) }
	a.Admit()
	j.attempt = a
	return nil
}

// fits refuses what cannot be carried out as policy wants it.
func (j *judged) fits(v gate.Verdict) error {
	if i := slices.IndexFunc(v.Redactions, func(r gate.Redaction) bool { return r.Column != "" }); i >= 0 && j.analysis.Access == statement.Unknown {
		return &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf("The statement runs code that nobody can see into, and policy masks %s, which that could read, so it was refused.", v.Redactions[i].Column)}
	}
	if i := slices.IndexFunc(v.Redactions, func(r gate.Redaction) bool { return r.Column != "" && !r.Use }); i >= 0 && j.analysis.Code {
		return &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf("The statement defines code that later runs where nobody can see into it, and policy masks %s, which that could read, so it was refused.", v.Redactions[i].Column)}
	}
	if _, err := mask.New(j.plans, v.Redactions, &j.analysis, j.catalog); err != nil {
		return err
	}
	return j.keeps(v.Limits)
}

// decide has the gate rule on a statement. A nil failure means that it may run, and that this is on record.
func (s *session) decide(ctx context.Context, j *judged) *failure {
	s.judging = j
	f := s.rule(ctx, j)
	s.judging = nil
	return f
}

func (s *session) rule(ctx context.Context, j *judged) *failure {
	if f := s.begin(j); f != nil {
		return f
	}
	s.count.statements.Add(1)
	a := j.attempt
	if refusal, ok := a.Room(lane.Bytes + int64(weight*j.size)); !ok {
		a.Refuse(ctx, refusal)
		return s.refused(j, refused(a.Refusal(), a.Op.ID))
	}
	if j.fault != nil {
		return s.doubted(ctx, j)
	}
	if j.phase == phaseParse {
		rules, ok := a.State.Gate.Policy.(interface {
			LooksAt(policy string, members ...string) bool
		})
		if a.Prepare(ctx, ok && rules.LooksAt(a.Op.Resource.Policy, "parameters")) {
			return nil
		}
		f := refused(a.Refusal(), a.Op.ID)
		if a.Refusal().Problem == gate.Unauthenticated {
			f = f.ended()
		}
		return s.refused(j, f)
	}
	ctx, h := s.holder(ctx, j)
	defer h.end()
	if a.Decide(ctx, h) {
		return nil
	}
	f := refused(a.Refusal(), a.Op.ID)
	if a.Refusal().Problem == gate.Unauthenticated {
		f = f.ended()
	}
	outcome := gate.Outcome{Result: gate.Refused}
	if reason, left := a.LeftWaiting(ctx); left {
		outcome.Result, outcome.Reason = gate.ClientGone, reason
	}
	if h.cancelled() {
		f = &failure{code: codeCancelled, message: "canceling statement due to user request", detail: "Nothing was done. (request " + a.Op.ID + ")"}
		outcome.Result, outcome.Reason = gate.Refused, "the agent cancelled the statement while people were being asked"
	}
	return s.refusedAs(j, f, outcome)
}

// doubted refuses what was not understood. Policy is not asked.
func (s *session) doubted(ctx context.Context, j *judged) *failure {
	f := j.fault
	// The record has the SQLSTATE: the message quotes of the statement what it is about, which can be a literal.
	j.attempt.Refuse(ctx, gate.Refusal{Problem: gate.Unreadable, Detail: "The statement was not understood (" + f.code + "), so it was refused."})
	told := refused(j.attempt.Refusal(), j.attempt.Op.ID)
	if j.attempt.Refusal().Problem == gate.Unreadable {
		told.code, told.message, told.position = f.code, f.message, f.position
		if f.hint != "" {
			told.hint = f.hint + " (request " + j.attempt.Op.ID + ")"
		}
	}
	return s.refused(j, told)
}

func doubt(d *statement.Doubt) *failure {
	return &failure{code: d.Code, message: d.Message, hint: d.Hint, position: d.Position}
}

func (s *session) refused(j *judged, f *failure) *failure {
	return s.refusedAs(j, f, gate.Outcome{Result: gate.Refused})
}

// refusedAs ends the operation of a statement that was refused.
func (s *session) refusedAs(j *judged, f *failure, o gate.Outcome) *failure {
	a := j.attempt
	s.count.refused.Add(1)
	o.Problem, o.Duration, o.BytesIn = a.Refusal().Problem, s.server.lane.Now().Sub(a.Started), int64(j.size)
	a.Finish(o)
	a.Share.Set(0)
	return f
}

// withdraw ends the operation of a statement that was allowed, and is not sent because another of the same query was refused.
func (s *session) withdraw(j *judged) {
	s.count.refused.Add(1)
	j.attempt.Finish(gate.Outcome{
		Result: gate.Refused, Reason: "another statement of the same query was refused, so none was carried out",
		Duration: s.server.lane.Now().Sub(j.attempt.Started), BytesIn: int64(j.size),
	})
	j.attempt.Share.Set(0)
}

// running is what the target is to carry out of a statement that was allowed.
func (s *session) running(j *judged) *run {
	r := &run{attempt: j.attempt, began: j.attempt.Started, sent: int64(j.size)}
	if redactions := j.attempt.Ruling.Redactions(); len(redactions) > 0 {
		plan, err := mask.New(j.plans, redactions, &j.analysis, j.catalog)
		if err != nil { // it fitted when it was decided
			plan = mask.All(len(j.analysis.Output))
		}
		r.mask, r.veil, r.sum = plan, s.veils(redactions, &j.analysis), sha256.New()
	}
	if j.phase != phaseExecute {
		return r
	}
	r.changes, r.limits, r.copiesIn = j.analysis.Changes, s.limited(j), j.copiesIn()
	if len(r.changes) > 0 {
		s.stale, s.asks = true, s.asks || settings(r.changes)
	}
	for _, c := range r.changes {
		if c.What == statement.Set && strings.Contains(c.Name, ".") && !slices.Contains(s.custom, c.Name) && len(s.custom) < mostCustom {
			s.custom = append(s.custom, c.Name)
		}
	}
	s.earlier = j.after(s.earlier)
	return r
}

// after is the digest of what was done before and of what this statement does.
func (j *judged) after(before []byte) []byte {
	if j.analysis.Access == statement.Read {
		return before
	}
	sum := sha256.New()
	sum.Write(before)
	sum.Write([]byte(j.statement.Text))
	sum.Write([]byte(j.analysis.Executes))
	for _, p := range j.parameters {
		fmt.Fprintf(sum, "\x00%t%s", p.null, p.raw)
	}
	return sum.Sum(nil)
}

// settings reports whether changes can be to settings, of which the server is asked.
func settings(changes []statement.Change) bool {
	return slices.ContainsFunc(changes, func(c statement.Change) bool {
		switch c.What {
		case statement.Begin, statement.Savepoint, statement.Release, statement.Prepared, statement.Deallocated, statement.DeallocateAll, statement.Declared, statement.Closed, statement.CloseAll:
			return false
		}
		return true
	})
}

// holding is the session's side of a hold: the connection stays, and the agent can cancel.
type holding struct {
	session *session
	judged  *judged
	attempt *lane.Attempt
	stop    context.CancelFunc
	watched sync.WaitGroup
}

func (s *session) holder(ctx context.Context, j *judged) (context.Context, *holding) {
	ctx, stop := context.WithCancel(ctx)
	s.mu.Lock()
	s.cancelHold = false
	s.mu.Unlock()
	return ctx, &holding{session: s, judged: j, attempt: j.attempt, stop: stop}
}

// Wait tells the agent that people are asked, and watches for its leaving.
func (h *holding) Wait(p *gate.Pending) {
	s := h.session
	notice := &failure{code: codePending, message: "waiting for a person's approval: " + p.ID, hint: "The statement goes on when somebody approves it. Cancel it to wait no longer."}
	s.between()
	s.hold = h.stop
	if !s.torn {
		_, _ = s.out.Write(notice.appendNotice(nil))
		_ = s.out.Flush()
	}
	over := s.over
	s.mu.Unlock()
	if over {
		h.stop()
		return
	}
	_ = s.client.SetReadDeadline(time.Time{})
	h.watched.Go(guard.Func("the wait of a session", func() {
		// What comes meanwhile, which can be that it takes its leave, waits; as long as there is room for it, its leaving is seen.
		var err error
		for in := s.client.in; err == nil && in.Buffered() < in.Size(); {
			_, err = in.Peek(in.Buffered() + 1)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			h.stop()
		}
	}))
}

// Resume is false where the session could not go on under the configuration of now.
func (h *holding) Resume(ctx context.Context, _ *lane.Resource) bool {
	s := h.session
	now, _ := h.attempt.Resource.Own.(*Target)
	if !s.target.same(now, s.role, s.database) {
		return false
	}
	if s.piped || h.judged.state.Transaction != statement.Idle {
		return true // the server cannot be asked within a transaction; its catalog is as that began
	}
	// What a name means may have changed meanwhile: what was approved is what was shown.
	catalog, err := s.server.catalog(s.target).Get(ctx, s.key0(), s.ask)
	if err != nil {
		return false
	}
	s.catalog = catalog
	again := s.look(h.judged.statement, h.judged.state, h.judged.parameters, h.judged.size)
	if again.fault != nil || !reflect.DeepEqual(again.analysis, h.judged.analysis) {
		return false
	}
	return true
}

// cancelled reports whether the agent has cancelled the wait.
func (h *holding) cancelled() bool {
	h.session.mu.Lock()
	defer h.session.mu.Unlock()
	return h.session.cancelHold
}

func (h *holding) end() {
	s := h.session
	s.mu.Lock()
	s.hold = nil
	s.mu.Unlock()
	_ = s.client.SetReadDeadline(time.Unix(1, 0)) // ends the watch
	h.watched.Wait()
	_ = s.client.SetReadDeadline(time.Time{})
	h.stop()
}

// anyRefused is the first of several that policy denies as they stand, or -1. It asks nobody and records nothing: it keeps
// a query of which a part is denied from spending approvals for the rest.
func (s *session) anyRefused(ctx context.Context, list []*judged) int {
	return slices.IndexFunc(list, func(j *judged) bool {
		if j.fault != nil || s.begin(j) != nil {
			return true
		}
		st := j.attempt.State
		if st.Gate.Policy == nil {
			return true
		}
		v, err := st.Gate.Policy.Evaluate(ctx, &j.attempt.Op)
		return err != nil || v.Effect == gate.Deny || j.fits(v) != nil
	})
}
