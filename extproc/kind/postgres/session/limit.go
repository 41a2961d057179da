package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// What policy limits is limited twice where it can be: by the server, which is told for how long a statement may run and that it may
// not write (settle), and here, where rows and bytes are counted and a clock runs.
//
// A statement that has reached a limit is cancelled at the server, and its error is replaced by ours (CS004). Until the server has
// cancelled it what it answers is dropped. It can be that it was done before the cancellation came. Then the agent is told the same,
// and the transaction is made to fail as if it had been cancelled (mustFail), so that what the agent was told is so. What cannot be
// undone by that is refused before it runs: see judged.keeps.
//
// A change that answers with rows, by a simple query outside of a transaction, is done before its first row comes, and nothing can undo
// it for certain. So it is not cancelled, and the agent is told that it was carried out. Everything else that is broken off is undone.
// What the agent is told does not say whether a cancellation came in time: that can depend on how long masked values are.
//
// Rows are counted as they go to the agent, and bytes once they are masked: whether a limit was reached says nothing of a value that
// the agent may not have.

// limits are those of a run, and what is counted towards them. mu guards it.
type limits struct {
	gate.Limits
	total   *total     // with the parts of the same portal that came before
	spare   int64      // messages of COPY data that are no rows: a header, a trailer
	answers bool       // it can answer with rows or data
	stays   bool       // what it changes cannot be undone
	armed   bool       // the server runs a clock too
	reached gate.Limit // the one that was; empty where none was

	clock   *time.Timer
	started time.Time // the clock
}

// total is what a portal has answered, over all executions of it.
type total struct{ rows, bytes int64 }

// mayBeCut reports whether the answer may have to be broken off.
func (l *limits) mayBeCut() bool { return l.answers && (l.Rows > 0 || l.Bytes > 0) }

// isCut reports whether it was.
func (l *limits) isCut() bool { return l.reached == gate.LimitRows || l.reached == gate.LimitBytes }

// take counts rows and bytes that are to go to the agent, or have come from it, and says whether they may.
func (l *limits) take(rows, bytes int64) bool {
	if l.total == nil {
		l.total = &total{}
	}
	l.total.rows += rows
	l.total.bytes += bytes
	switch {
	case l.reached != "" && l.reached != gate.LimitSeconds:
	case l.Rows > 0 && l.total.rows > l.Rows+l.spare:
		l.reached = gate.LimitRows
	case l.Bytes > 0 && l.total.bytes > l.Bytes:
		l.reached = gate.LimitBytes
	default:
		return true
	}
	return false
}

// limited are the limits of a statement that is to run.
func (s *session) limited(j *judged) limits {
	a := &j.analysis
	changes := slices.Contains([]string{"insert", "update", "delete", "merge"}, a.Kind) && !a.Explain
	l := limits{Limits: j.attempt.Ruling.Limits(), answers: !changes || len(a.Output) > 0}
	if c := a.Copy; c != nil {
		if _, header := c.Options["header"]; header || c.Format == "binary" {
			l.spare = 1
		}
	}
	return l
}

// keeps refuses what a limit could not be kept for.
func (j *judged) keeps(l gate.Limits) error {
	a := &j.analysis
	refuse := func(format string, args ...any) error {
		return &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf(format, args...)}
	}
	switch a.Access {
	case statement.Read, statement.Session, statement.Transaction:
	default:
		if l.ReadOnly {
			return refuse("Policy limits this statement to reading, and what it does is %s, so it was refused. Repeating it will not help.", a.Access)
		}
	}
	if l.ReadOnly && j.statement.Of > 1 && !armable(a) {
		return refuse("Policy limits this statement to reading, and it stands among others in a way in which the database could not be kept to that, so it was refused. Send it by itself.")
	}
	if (l.Rows > 0 || l.Bytes > 0) && j.mixed {
		return refuse("Policy limits the answer to this statement, and it is one of several of which some change something, so it was refused. Send it by itself.")
	}
	return nil
}

// mix notes which statements stand among others that change something. An answer that is broken off fails its transaction, and the
// rest of a text runs before that can be seen to.
func mix(list []*judged) {
	if len(list) < 2 {
		return
	}
	mixed := slices.ContainsFunc(list, func(j *judged) bool {
		switch j.analysis.Access {
		case statement.Read, statement.Session:
			return false
		case statement.Transaction:
			return list[0].state.Transaction != statement.Idle
		default:
			return true
		}
	})
	for _, j := range list {
		j.mixed = mixed
	}
}

// armable reports whether the server can be told of limits before a statement: it runs in a transaction and neither ends one nor
// changes settings.
func armable(a *statement.Analysis) bool {
	return (a.Access == statement.Read || a.Access == statement.Write) &&
		slices.Contains([]string{"select", "insert", "update", "delete", "merge", "copy", "cursor"}, a.Kind) && !settings(a.Changes)
}

// arms are the limits that the server was told of.
type arms struct {
	timeout  time.Duration // 0 where the session's own holds
	readOnly bool
}

// settled arms are what the server has for the session, and for the transaction that is under way, which comes first.
type armed struct {
	session, local arms
	isLocal        bool
	doubt          bool // a function has run that may have changed them

	timeout, readOnly string // the session's own, while they are replaced
}

func (a *armed) now() arms {
	if a.isLocal {
		return a.local
	}
	return a.session
}

// wanted are the limits for the server of statements that are sent at once.
func wanted(list []*judged) (want arms) {
	if slices.ContainsFunc(list, func(j *judged) bool { return !armable(&j.analysis) }) {
		return arms{}
	}
	want.readOnly = true
	for i, j := range list {
		l := j.attempt.Ruling.Limits()
		want.readOnly = want.readOnly && l.ReadOnly
		switch {
		case l.Time == 0 || i > 0 && want.timeout == 0:
			want.timeout = 0
		default:
			want.timeout = max(want.timeout, l.Time)
		}
	}
	return want
}

// arm tells the server of the limits of what is sent next, or takes back what it was told. open says that a pipeline is open.
func (s *session) arm(list []*judged, open bool) error {
	a, want := &s.armed, wanted(list)
	if want == (arms{}) && a.session == want && !a.isLocal {
		return nil
	}
	if open {
		if _, err := s.to.Write(appendMessage(nil, 'H')); err != nil {
			return err
		}
	}
	if err := s.settled(); err != nil { // or the status is not what it will be
		return err
	}
	s.mu.Lock()
	status, skipping := s.status, s.skipping
	s.mu.Unlock()
	switch {
	case status == 'E' || skipping: // it answers nothing, and forgets what the transaction was told
		a.isLocal, a.doubt = false, true
		return nil
	case status == 'I' && !open:
		a.isLocal = false
	}
	doubt := a.doubt
	a.doubt = slices.ContainsFunc(list, func(j *judged) bool {
		return slices.ContainsFunc(j.analysis.Functions, func(f statement.Function) bool { return f.Schema != "pg_catalog" })
	})
	now := a.now()
	if want == now && (!doubt || want == arms{}) {
		return nil
	}
	if err := s.rearm(want, now, status == 'T' || open, open); err != nil {
		return s.unsettled(err)
	}
	return nil
}

// arms notes of runs that the server runs a clock for them.
func (s *session) arms(runs []*run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range runs {
		r.limits.armed = s.armed.now().timeout > 0
	}
}

// stays notes of what a simple query outside of a transaction changes that it stays, whatever becomes of the answer. A text of several
// that change something has no limit on answers: see judged.keeps.
func (s *session) stays(list []*judged, runs []*run) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, j := range list {
		runs[i].limits.stays = s.status == 'I' && j.analysis.Access != statement.Read
	}
}

// unsettled ends a session in which the server could not be told of limits.
func (s *session) unsettled(err error) error {
	if f := (*failure)(nil); errors.As(err, &f) || s.isOver() {
		return err
	}
	s.server.lane.Log.Warn("the database could not be told of a limit", "session", s.id, "error", err)
	return &failure{code: codeUnavailable, message: "the database could not be told of the limits of this statement", hint: "Connect again."}
}

func (s *session) rearm(want, now arms, local, open bool) error {
	a := &s.armed
	if a.session == (arms{}) && !a.isLocal {
		rows, err := s.asked("SELECT pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('default_transaction_read_only')", open)
		if err != nil || len(rows) != 1 || len(rows[0]) != 2 {
			return fmt.Errorf("ask for the session's own limits: %d rows: %w", len(rows), err)
		}
		a.timeout, a.readOnly = rows[0][0], rows[0][1]
	}
	var set []string
	put := func(name, value string) {
		set = append(set, fmt.Sprintf("pg_catalog.set_config('%s', '%s', %t)", name, strings.ReplaceAll(value, "'", "''"), local))
	}
	switch own, known := milliseconds(a.timeout); {
	case want.timeout == 0:
		put("statement_timeout", a.timeout)
	case known && own > 0 && own < want.timeout:
		put("statement_timeout", a.timeout)
	default:
		put("statement_timeout", strconv.FormatInt(want.timeout.Milliseconds(), 10))
	}
	switch {
	case local && want.readOnly:
		put("transaction_read_only", "on") // for the rest of it: no transaction becomes writable again once it has looked at anything
	case local:
	case want.readOnly:
		put("default_transaction_read_only", "on")
	case now.readOnly:
		put("default_transaction_read_only", a.readOnly)
	}
	if _, err := s.asked("SELECT "+strings.Join(set, ", "), open); err != nil {
		return fmt.Errorf("set the limits of a statement: %w", err)
	}
	if local {
		a.local, a.isLocal = want, true
		return nil
	}
	a.session = want
	return nil
}

// milliseconds reads a time as PostgreSQL writes one: "0", "250ms", "5s", "2min".
func milliseconds(text string) (time.Duration, bool) {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyz")
	n, err := strconv.ParseInt(digits, 10, 32)
	unit, known := map[string]time.Duration{"": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[text[len(digits):]]
	return time.Duration(n) * unit, err == nil && known
}

// grace is how much later than the server's the gateway's own clock goes off, so that it is the server's that does.
const grace = 500 * time.Millisecond

// runClock starts the clock of the statement whose turn it is. mu is held.
func (s *session) runClock() {
	if len(s.queue) == 0 {
		return
	}
	r := s.queue[0].running()
	if r == nil || r.limits.Time == 0 || r.limits.clock != nil {
		return
	}
	after := r.limits.Time
	if r.limits.armed {
		after += grace
	}
	r.limits.started = time.Now()
	r.limits.clock = time.AfterFunc(after, guard.Func("the clock of a statement", func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.over || len(s.queue) == 0 || s.queue[0].running() != r || r.limits.reached != "" {
			return
		}
		r.limits.reached = gate.LimitSeconds
		s.cut()
	}))
}

// cut cancels at the target what has reached a limit. mu is held. Nothing more is sent until that is done, or it could be cancelled
// in the place of what is meant.
func (s *session) cut() {
	s.cutting++
	go guard.Func("the cancellation of what has reached a limit", func() {
		err := cancel(context.Background(), s.target, route{peer: s.peer, session: s.id}, s.target.Roles[s.role], s.up.key)
		s.mu.Lock()
		s.cutting--
		s.moved.Broadcast()
		s.mu.Unlock()
		if err != nil && !s.isOver() {
			s.end((&failure{code: codeUnavailable, message: "a statement that has reached a limit could not be cancelled", hint: "Connect again."}).ended())
		}
	})()
}

// overTime reports whether the server cancelled a statement because its time was up.
func (e *expected) overTime(r *run, code string) bool {
	l := &r.limits
	return code == codeCancelled && !e.cancelled && l.armed && l.clock != nil && time.Since(l.started) >= l.Time
}

// limitReached is what the agent is told of a statement that has reached a limit.
func limitReached(r *run) *failure {
	l := &r.limits
	what := map[gate.Limit]string{
		gate.LimitRows: fmt.Sprintf("its answer has more than %d rows", l.Rows), gate.LimitBytes: fmt.Sprintf("it moves more than %d bytes", l.Bytes),
		gate.LimitSeconds: fmt.Sprintf("it took longer than %v", l.Time),
	}[l.reached]
	request := " (request " + r.attempt.Op.ID + ")"
	detail := "Policy limits this statement, and " + what + ", so it was cancelled."
	if l.stays && l.isCut() {
		detail = "Policy limits this statement, and " + what + ", so the rest of the answer was left out. What it changes was carried out."
	}
	return &failure{
		code: codeLimit, message: "the statement has reached a limit (" + string(l.reached) + ")", detail: detail + request,
		hint: "Ask for less, with a WHERE or a LIMIT, or in smaller parts." + request,
	}
}

// outcome is how a statement ended that has reached a limit.
func (l *limits) outcome(o *gate.Outcome) {
	o.Result, o.Problem = gate.WithheldBy, gate.LimitReached
	o.Reason = "it has reached policy's limit of " + string(l.reached) + " (" + l.String() + ")"
}

// awaitCut waits, within a pipeline, for a statement whose answer may have to be broken off: what comes after it is skipped then, and
// what came before undone.
func (s *session) awaitCut() error {
	if !s.piped {
		return s.failNow()
	}
	if !s.mayBeCut() {
		return nil
	}
	if _, err := s.to.Write(appendMessage(nil, 'H')); err != nil {
		return err
	}
	if err := s.watched(s.settled); err != nil {
		return err
	}
	s.mu.Lock()
	fail := s.mustFail
	s.mustFail = false
	s.mu.Unlock()
	if !fail {
		return nil
	}
	s.batch, s.batched = s.batch[:0], 0
	clear(s.batch[:cap(s.batch)])
	s.discarding, s.piped = true, true
	s.expect(&expected{kind: 'E', own: &asked{}})
	_, err := s.to.Write(failing())
	return err
}

// mayBeCut reports whether something is under way whose answer may have to be broken off, or was.
func (s *session) mayBeCut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mustFail || slices.ContainsFunc(s.queue, func(e *expected) bool {
		return slices.ContainsFunc(e.runs, func(r *run) bool { return r.limits.mayBeCut() })
	})
}

// watched is wait, which ends when the agent leaves meanwhile.
func (s *session) watched(wait func() error) error {
	_ = s.client.SetReadDeadline(time.Time{})
	gone := make(chan struct{})
	go guard.Func("the wait of a session", func() {
		defer close(gone)
		_, err := s.client.in.Peek(min(s.client.in.Buffered()+1, s.client.in.Size()))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.left("the client left")
		}
	})()
	err := wait()
	_ = s.client.SetReadDeadline(time.Unix(1, 0)) // ends the watch
	<-gone
	_ = s.client.SetReadDeadline(time.Time{})
	return err
}

// failNow has the server fail a transaction of which the agent was told that it has. Nothing is under way.
func (s *session) failNow() error {
	s.mu.Lock()
	fail := s.mustFail
	s.mustFail = false
	s.mu.Unlock()
	if !fail {
		return nil
	}
	s.expect(&expected{kind: 'E', own: &asked{}}, &expected{kind: 'S', own: &asked{}})
	if _, err := s.to.Write(append(failing(), appendMessage(nil, 'S')...)); err != nil {
		return err
	}
	return s.settled()
}

// copied counts COPY data of the agent's, and says whether it may go on to the server. Where it may not the COPY fails there, by a
// message that does nothing else.
func (s *session) copied(size int) (passes bool, err error) {
	passes, ends := s.takeCopy(int64(size))
	if ends {
		_, err = s.to.Write(appendMessage(nil, 'f', cstring("a limit was reached")))
		err = errors.Join(err, s.to.Flush())
	}
	return passes, err
}

// takeCopy says whether COPY data may pass, and whether the COPY is to end because it may not.
func (s *session) takeCopy(size int64) (passes, ends bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.copier()
	if r == nil {
		return true, false // the server ignores it
	}
	before := r.limits.reached
	if r.limits.take(0, size) {
		r.copied += size
		return true, false
	}
	return false, before == ""
}

// copier is the first statement that is not done and takes COPY data of the agent's: it may send that before the server asks for it.
// mu is held.
func (s *session) copier() *run {
	for _, e := range s.queue {
		for _, r := range e.runs[min(e.at, len(e.runs)):] {
			if r.copiesIn {
				return r
			}
		}
	}
	return nil
}
