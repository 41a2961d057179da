package session

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/kind/postgres/mask"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/lane"
)

// expected is what the target has yet to answer: the message of that type.
type expected struct {
	kind byte   // 'Q', 'P', 'B', 'D', 'C', 'E' or 'S'
	runs []*run // the statements of a Query, the one of an Execute, what a Parse was decided as
	at   int    // the one of a Query that is under way
	cut  bool   // an answer was broken off, and the agent was told so: it is told nothing more of it

	cancelled bool     // by the agent
	failed    bool     // a Query has
	refusal   *failure // stands in the place of the error that the target was made to give
	own       *asked   // the gateway's own: the agent is told nothing of the answer
	about     *run     // whose answer the gateway's own Describe is about

	prepared *prepared // what a Parse makes, and what a Describe tells the parameters of
	portal   *portal   // what a Bind makes
	name     string    // of what a Parse or Bind makes, or a Close removes
	closes   byte      // 'S' or 'P'
}

// run is a statement that the target carries out.
type run struct {
	attempt     *lane.Attempt
	began       time.Time
	rows, bytes int64
	sent        int64              // bytes of the message that had it
	copiesIn    bool               // it takes COPY data of the agent's
	copied      int64              // bytes of it; mu guards it
	changes     []statement.Change // of the session, once it is carried out
	limits      limits

	veil *veil      // what of errors and notices does not pass; nil where policy redacts nothing
	mask *mask.Plan // nil where nothing of the answer is taken out
	sum  hash.Hash  // of the rows as the agent gets them, where something is
}

// asked is what the gateway itself asks the server.
type asked struct {
	rows [][]string
	size int
	err  error
}

// event is something that the state of the session has to be told, in the order in which it happened. One of them is set.
type event struct {
	changes []statement.Change
	failed  bool
	ready   byte   // the status of a ReadyForQuery
	parsed  *named // a Parse
	closed  *named // a Close
}

type named struct {
	name string
	as   *prepared
	of   byte // 'S' or 'P'
}

// maxAnswer bounds a message of the target's, which are passed on as they come: PostgreSQL's own bound.
const maxAnswer = 1 << 30

// maxAsked bounds what the gateway itself is answered.
const maxAsked = 256 << 20

// maxHeldAnswer bounds those that are read whole: errors, notices, tags, descriptions.
const maxHeldAnswer = 16 << 20

// answers passes on what the target answers, until it or the session ends.
func (s *session) answers() {
	for {
		if s.up.in.Buffered() == 0 {
			s.mu.Lock()
			err := s.out.Flush()
			s.mu.Unlock()
			if err != nil {
				s.left("the client's connection: " + err.Error())
				return
			}
		}
		h, err := readHead(s.up.in, maxAnswer)
		if err != nil {
			if !s.isOver() {
				s.end((&failure{code: codeUnavailable, message: "the database has closed the connection", hint: "Connect again."}).ended())
			}
			return
		}
		ending, err := s.answerLocked(h)
		switch {
		case err != nil:
			s.lost(err)
			return
		case ending != nil:
			s.end(ending)
			return
		}
	}
}

// answerLocked takes one message of the target's, and returns why the session ends where it does with this one. A panic must not keep
// mu: the end of the session takes it.
func (s *session) answerLocked(h head) (ending *failure, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.answer(h)
	s.runClock()
	if err == nil && s.resting() {
		ending = s.ending
	}
	return ending, err
}

func (s *session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// lost ends the session after an answer that could not be passed on.
func (s *session) lost(err error) {
	if f, ok := err.(*failure); ok { //nolint:errorlint // answer returns it as it is
		s.end(f.ended())
		return
	}
	if !s.isOver() {
		s.server.lane.Log.Debug("an answer could not be passed on", "session", s.id, "error", err)
	}
	s.left("an answer could not be passed on: " + err.Error())
}

// answer takes one message of the target's. mu is held.
func (s *session) answer(h head) error {
	var e *expected
	if len(s.queue) > 0 {
		e = s.queue[0]
	}
	switch h.kind {
	case 'D', 'd':
		return s.row(e, h)
	case 'V', 'W', 'v', 'R', 'K':
		return &failure{code: codeProtocol, message: fmt.Sprintf("the database sent a message of type %q that nothing asked for", h.kind)}
	}
	if h.size > maxHeldAnswer {
		return &failure{code: codeTooLarge, message: "the database sent a message that is too large to be looked at"}
	}
	raw, err := s.whole(h, nil)
	if err != nil {
		return err
	}
	body := raw[headSize:]
	switch h.kind {
	case 'N':
		if e != nil && e.own != nil {
			return nil
		}
		if raw = s.veilOf(e).notice(raw); raw == nil {
			return nil
		}
		return s.tell(raw)
	case 'A':
		if s.muted {
			return nil
		}
		return s.tell(s.veil.notification(raw))
	case 'S':
		return s.parameter(e, raw, body)
	case 'E':
		return s.failure(e, raw, body)
	}
	if e == nil {
		return &failure{code: codeProtocol, message: fmt.Sprintf("the database sent a message of type %q that nothing asked for", h.kind)}
	}
	switch h.kind {
	case 'Z':
		return s.ready(e, raw, body)
	case 'C', 'I', 's':
		return s.complete(e, h.kind, raw, body)
	case '1', '2', '3', 'n', 'T', 't':
		return s.made(e, h.kind, raw, body)
	case 'G':
		s.copying = true
		s.moved.Broadcast()
		return s.tell(raw)
	case 'H':
		if r := e.running(); r != nil && r.mask != nil && r.mask.DescribeCopy(body) != nil {
			return &failure{code: codeWithheld, message: "the answer is not what the statement was found to give, so it is withheld"}
		}
		return s.tell(raw)
	case 'c':
		return s.copyDone(e, raw)
	default:
		return &failure{code: codeProtocol, message: fmt.Sprintf("the database sent a message of type %q, which is not known here", h.kind)}
	}
}

// copyDone passes on the end of COPY data, unless it was broken off before.
func (s *session) copyDone(e *expected, raw []byte) error {
	if r := e.running(); e.cut || r != nil && r.limits.isCut() {
		return nil
	}
	return s.tell(raw)
}

// tell writes to the agent. mu is held.
func (s *session) tell(raw []byte) error {
	s.count.out.Add(int64(len(raw)))
	_, err := s.out.Write(raw)
	return err
}

// row passes on a row, or a piece of COPY data.
func (s *session) row(e *expected, h head) error {
	if e == nil || e.kind != 'Q' && e.kind != 'E' {
		return &failure{code: codeProtocol, message: "the database sent a row that nothing asked for"}
	}
	if e.own != nil {
		raw, err := s.whole(h, nil)
		if err != nil {
			return err
		}
		row, err := values(raw[headSize:])
		if e.own.size += len(raw); e.own.size > maxAsked {
			return &failure{code: codeTooLarge, message: "the database's own answer to a question of the gateway is too large"}
		}
		e.own.rows = append(e.own.rows, row)
		return err
	}
	r := e.running()
	if e.cut || r != nil && r.limits.isCut() {
		return s.leaveOut(h)
	}
	if r != nil && r.mask != nil {
		return s.maskedRow(r, h)
	}
	if r != nil {
		if !s.counted(r, h.kind, headSize+h.size) {
			return s.leaveOut(h)
		}
	}
	s.count.out.Add(int64(headSize + h.size))
	to := io.Writer(s.out)
	if r != nil && r.sum != nil { // that it came by here is on record, though nothing is masked in it
		to = io.MultiWriter(s.out, r.sum)
	}
	return s.passOn(to, h)
}

// counted counts a row, or a piece of COPY data, that is to go to the agent, and says whether it may. mu is held.
func (s *session) counted(r *run, kind byte, size int) bool {
	if !r.limits.take(1, int64(size)) {
		if !r.limits.stays {
			s.cut()
		}
		return false
	}
	if kind == 'D' {
		r.rows++
	}
	r.bytes += int64(size)
	return true
}

// maskedRow passes on a row of an answer of which something is taken out.
func (s *session) maskedRow(r *run, h head) error {
	if h.size > maxHeldAnswer {
		return &failure{code: codeWithheld, message: "a row is too large to be masked, so it is withheld"}
	}
	raw, err := s.whole(h, s.scratch[:0])
	if err != nil {
		return err
	}
	s.scratch = raw
	rewrite := r.mask.Row
	if h.kind == 'd' {
		rewrite = r.mask.CopyData
	}
	if s.masked, err = rewrite(append(s.masked[:0], h.raw[:]...), raw[headSize:]); err != nil {
		return &failure{code: codeWithheld, message: "the answer is not what the statement was found to give, so it is withheld"}
	}
	raw = s.masked
	binary.BigEndian.PutUint32(raw[1:], uint32(len(raw)-1))
	if !s.counted(r, h.kind, len(raw)) {
		return nil
	}
	r.sum.Write(raw)
	return s.tell(raw)
}

// running is the statement that answers belong to.
func (e *expected) running() *run {
	if e.at < len(e.runs) && (e.kind == 'Q' || e.kind == 'E') {
		return e.runs[e.at]
	}
	return nil
}

// parameter passes on that a setting has changed. One in which what is said would not be what was read ends the session.
func (s *session) parameter(e *expected, raw, body []byte) error {
	name, rest, _ := cutCstring(body)
	value, _, _ := cutCstring(rest)
	if name == "client_encoding" && !utf8Named(value) {
		return &failure{code: codeUnsupported, message: fmt.Sprintf("client_encoding became %.64q, in which statements cannot be read here", value), hint: "Use UTF8."}
	}
	if e != nil && e.own != nil {
		return nil
	}
	if raw = s.veilOf(e).setting(raw, name, value); raw == nil {
		return nil
	}
	return s.tell(raw)
}

// failure passes on an error, or the refusal in its place. In a pipeline the target then skips everything until Sync.
func (s *session) failure(e *expected, raw, body []byte) error {
	code, message := errorFields(body)
	s.copying = false
	s.moved.Broadcast()
	if e == nil {
		return s.tell(s.veil.error(raw)) // it is about to close the connection, and says why
	}
	if s.status == 'T' {
		s.status = 'E'
	}
	if e.own == nil {
		s.events = append(s.events, event{failed: true})
	}
	switch {
	case e.own != nil:
		e.own.err = &serverError{code, message}
	case e.refusal != nil:
		if err := s.tell(e.refusal.bytes()); err != nil {
			return err
		}
	default:
		r := e.running()
		if r != nil && r.limits.reached == "" && e.overTime(r, code) {
			r.limits.reached = gate.LimitSeconds
		}
		switch {
		case e.cut:
			raw = nil
		case r != nil && r.limits.reached != "":
			raw, code = limitReached(r).bytes(), codeLimit
		default:
			raw = s.veilOf(e).error(raw)
		}
		if err := s.tell(raw); err != nil {
			return err
		}
	}
	if e.kind == 'Q' {
		if r := e.running(); r != nil {
			s.done(r, gate.Completed, "", code, "")
			e.at++
		}
		e.failed = true
		return nil
	}
	for _, r := range e.runs {
		s.done(r, gate.Completed, "", code, "")
	}
	e.runs = nil
	s.skipping = true
	for len(s.queue) > 0 && s.queue[0].kind != 'S' {
		s.queue[0].giveUp(s, gate.TargetFailed, "an earlier statement of the same pipeline failed, so the database skipped this one")
		s.queue = s.queue[1:]
	}
	return nil
}

// giveUp finishes what of e the target has not carried out.
func (e *expected) giveUp(s *session, result gate.Result, reason string) {
	for _, r := range e.runs[min(e.at, len(e.runs)):] {
		s.done(r, result, "", "", reason)
	}
	e.runs = nil
	if e.own != nil && e.own.err == nil {
		e.own.err = errSkipped
	}
}

// ready is the end of a Query or of a pipeline.
func (s *session) ready(e *expected, raw, body []byte) error {
	if e.kind != 'Q' && e.kind != 'S' || len(body) != 1 {
		return &failure{code: codeProtocol, message: "the database is ready before it has answered"}
	}
	if e.kind == 'Q' {
		e.giveUp(s, gate.TargetFailed, "an earlier statement of the same query failed, so the database did not carry out this one")
	}
	s.queue = s.queue[1:]
	s.status, s.skipping, s.copying = body[0], false, false
	s.rested = time.Now()
	if s.status == 'I' {
		clear(s.portals)
		if s.defined { // others see it from here on
			s.defined = false
			go guard.Func("the catalog of a database", func() { s.server.catalog(s.target).Changed(s.database) })()
		}
	}
	s.moved.Broadcast()
	if e.own != nil {
		return nil
	}
	if s.mustFail = s.mustFail && s.status == 'T'; s.mustFail {
		s.status = 'E'
		raw[headSize] = 'E'
	}
	s.events = append(s.events, event{ready: s.status})
	return s.tell(raw)
}

// complete is the end of a statement.
func (s *session) complete(e *expected, kind byte, raw, body []byte) error {
	if e.kind != 'Q' && e.kind != 'E' {
		return &failure{code: codeProtocol, message: "the database completed what was not begun"}
	}
	tag := ""
	if kind == 'C' {
		tag, _ = oneCstring(body)
	}
	s.copying = false
	switch tag {
	case "BEGIN", "START TRANSACTION":
		s.status = 'T'
	case "COMMIT", "ROLLBACK":
		s.status = 'I'
	}
	if r := e.running(); r != nil {
		if r.limits.reached == gate.LimitSeconds { // it was done before it could be cancelled
			r.limits.reached = ""
		}
		if n, ok := rowsOf(tag); ok && r.rows == 0 && r.limits.reached == "" {
			r.rows = n
		}
		if r.limits.reached != "" && !e.cut {
			e.cut, s.mustFail = true, true
			if err := s.tell(limitReached(r).bytes()); err != nil {
				return err
			}
			s.done(r, gate.Completed, tag, codeLimit, "")
		} else {
			s.done(r, gate.Completed, tag, "", "")
		}
		e.at++
		if len(r.changes) > 0 {
			s.events = append(s.events, event{changes: r.changes})
			s.forget(r.changes)
			s.defined = s.defined || slices.ContainsFunc(r.changes, func(c statement.Change) bool { return c.What == statement.Defined || c.What == statement.Uncertain })
		}
	}
	if e.kind == 'E' {
		s.queue = s.queue[1:]
		s.moved.Broadcast()
	}
	if e.own != nil || e.cut {
		return nil
	}
	return s.tell(raw)
}

// rowsOf is the number of rows in a command tag: "INSERT 0 5", "UPDATE 3", "COPY 7".
func rowsOf(tag string) (int64, bool) {
	n, err := strconv.ParseInt(tag[strings.LastIndexByte(tag, ' ')+1:], 10, 64)
	return n, err == nil
}

// made is the answer to a message that makes, describes or removes something.
func (s *session) made(e *expected, kind byte, raw, body []byte) error {
	if e.own != nil {
		if e.about != nil && kind == 'T' && e.about.mask.Describe(body) != nil {
			return &failure{code: codeWithheld, message: "the answer is not what the statement was found to give, so it is withheld"}
		}
		if kind == 't' && e.prepared != nil {
			e.prepared.described(body)
		}
		if kind != 't' {
			s.queue = s.queue[1:]
			s.moved.Broadcast()
		}
		return nil
	}
	if e.cut && e.kind == 'Q' && kind == 'T' {
		return nil
	}
	ends := true
	switch {
	case kind == 'T' && (e.kind == 'Q' || e.kind == 'E'):
		ends = false
		if r := e.running(); r != nil && r.mask != nil && r.mask.Describe(body) != nil {
			return &failure{code: codeWithheld, message: "the answer is not what the statement was found to give, so it is withheld"}
		}
	case kind == '1' && e.kind == 'P':
		s.prepared[e.name] = e.prepared
		s.events = append(s.events, event{parsed: &named{name: e.name, as: e.prepared}})
		for _, r := range e.runs {
			s.done(r, gate.Completed, "PARSE", "", "")
		}
		e.runs = nil
	case kind == '2' && e.kind == 'B':
		s.portals[e.name] = e.portal
	case kind == '3' && e.kind == 'C':
		if e.closes == 'S' {
			delete(s.prepared, e.name)
		} else {
			delete(s.portals, e.name)
		}
		s.events = append(s.events, event{closed: &named{name: e.name, of: e.closes}})
	case kind == 't' && e.kind == 'D' && e.prepared != nil:
		e.prepared.described(body)
		ends = false
	case (kind == 'T' || kind == 'n') && e.kind == 'D':
	default:
		return &failure{code: codeProtocol, message: fmt.Sprintf("the database answered a message of type %q with one of type %q", e.kind, kind)}
	}
	if ends {
		s.queue = s.queue[1:]
		s.moved.Broadcast()
	}
	return s.tell(raw)
}

// done records how a statement ended. mu is held.
func (s *session) done(r *run, result gate.Result, tag, code, reason string) {
	a := r.attempt
	o := gate.Outcome{Result: result, Reason: reason, BytesIn: r.sent + r.copied, BytesOut: r.bytes, Duration: s.server.lane.Now().Sub(r.began)}
	if r.limits.clock != nil {
		r.limits.clock.Stop()
	}
	if r.limits.reached != "" && result == gate.Completed {
		r.limits.outcome(&o)
	}
	var masked []gate.Member
	if r.mask != nil {
		for name, n := range r.mask.Masked() {
			masked = append(masked, gate.Member{Name: name, Value: n})
			o.Redacted = append(o.Redacted, gate.Count{Name: name, N: n})
		}
		o.Redacted = append(o.Redacted, r.mask.Found()...)
	}
	counts, err := gate.MakeObject(masked...)
	if err != nil {
		counts = gate.Object{}
	}
	if r.sum != nil {
		o.BodySHA256 = hex.EncodeToString(r.sum.Sum(nil))
	}
	own, err := gate.MakeObject(
		gate.Member{Name: "masked", Value: counts},
		gate.Member{Name: "bytes", Value: r.bytes + r.copied}, gate.Member{Name: "rows", Value: r.rows},
		gate.Member{Name: "sqlstate", Value: code}, gate.Member{Name: "tag", Value: gate.Recorded(tag, gate.MaxClaimed)},
	)
	if err != nil {
		own = nil
	}
	s.count.rows.Add(r.rows)
	o.Own = gate.Member{Name: Protocol, Value: own}
	a.Finish(o)
	a.Share.Set(0)
}

// values are those of a DataRow, as text; NULL is "" too.
func values(body []byte) (list []string, err error) {
	r := bytes.NewReader(body)
	n, err := integer(r, 2)
	for range n {
		size, sizeErr := integer(r, 4)
		if sizeErr != nil || size < -1 || int(size) > r.Len() {
			return nil, io.ErrUnexpectedEOF
		}
		text := make([]byte, max(size, 0))
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, err
		}
		list = append(list, string(text))
	}
	return list, err
}

func integer(r io.Reader, size int) (n int32, err error) {
	var b [4]byte
	if _, err := io.ReadFull(r, b[4-size:]); err != nil {
		return 0, err
	}
	return int32(uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])), nil
}
