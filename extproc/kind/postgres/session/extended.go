package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// prepared is a statement that the agent has prepared by Parse. It does not change but for the types, which mu guards.
type prepared struct {
	text  string
	types []uint32 // of the parameters, as the agent gives them and the server then describes them
	size  int
}

// portal is a prepared statement with its values. It does not change but for what it has answered.
type portal struct {
	of         *prepared
	parameters []parameter
	size       int
	total      total // what it has answered; mu guards it
}

// item is a message of a pipeline that is not sent yet: what policy refuses does not reach the server, not even to be prepared.
type item struct {
	raw     []byte
	expects *expected
	parse   *prepared // of a Parse that has not been decided
}

// mostBatched bounds what of a pipeline is kept back until an Execute, a Flush or a Sync. mostPrepared and mostPortals bound what an
// agent can have prepared at one time.
const (
	mostBatched  = 10_000
	mostPrepared = 10_000
	mostPortals  = 1_000
)

// keep keeps a message back.
func (s *session) keep(i item) error {
	if len(s.batch) == mostBatched || s.batched+len(i.raw) > 2*s.target.Limits.Message {
		return &failure{code: codeTooLarge, message: "a pipeline has too much in it before an Execute, Flush or Sync"}
	}
	s.batch = append(s.batch, i)
	s.batched += len(i.raw)
	return nil
}

// parse takes a Parse.
func (s *session) parse(raw []byte) error {
	var m pgproto3.Parse
	if err := m.Decode(raw[headSize:]); err != nil || !same(&m, raw) {
		return malformed('P')
	}
	if len(m.Query) > s.target.Limits.Statement {
		return s.fail(s.longStatement())
	}
	if strings.HasPrefix(m.Name, own) {
		return s.fail(&failure{code: "42602", message: fmt.Sprintf("names that begin with %q are the gateway's", own)})
	}
	s.mu.Lock()
	full := len(s.prepared) >= mostPrepared
	s.mu.Unlock()
	if full {
		return s.fail(&failure{code: codeTooLarge, message: fmt.Sprintf("a session has %d prepared statements at most", mostPrepared), hint: "Close some."})
	}
	p := &prepared{text: m.Query, types: m.ParameterOIDs, size: len(raw)}
	return s.keep(item{raw, &expected{kind: 'P', name: m.Name, prepared: p}, p})
}

// same reports whether a message, written again, is what came: nothing in it was overlooked.
func same(m interface{ Encode([]byte) ([]byte, error) }, raw []byte) bool {
	again, err := m.Encode(make([]byte, 0, len(raw)))
	return err == nil && bytes.Equal(again, raw)
}

// bind takes a Bind.
func (s *session) bind(ctx context.Context, raw []byte) error {
	var m pgproto3.Bind
	if err := m.Decode(raw[headSize:]); err != nil || !same(&m, raw) {
		return malformed('B')
	}
	if n := len(m.ParameterFormatCodes); n > 1 && n != len(m.Parameters) {
		return malformed('B')
	}
	if strings.HasPrefix(m.DestinationPortal, own) {
		return s.fail(&failure{code: "42602", message: fmt.Sprintf("names that begin with %q are the gateway's", own)})
	}
	if err := s.answered(ctx); err != nil {
		return err
	}
	of := s.named(m.PreparedStatement)
	if of == nil {
		return s.fail(&failure{code: "26000", message: fmt.Sprintf("prepared statement %.64q does not exist", m.PreparedStatement)})
	}
	s.mu.Lock()
	types, full := of.types, len(s.portals) >= mostPortals
	s.mu.Unlock()
	if full {
		return s.fail(&failure{code: codeTooLarge, message: fmt.Sprintf("a session has %d portals at most", mostPortals), hint: "Close some."})
	}
	p := &portal{of: of, size: len(raw)}
	for i, value := range m.Parameters {
		one := parameter{null: value == nil, raw: bytes.Clone(value)}
		switch n := len(m.ParameterFormatCodes); {
		case n == 1:
			one.binary = m.ParameterFormatCodes[0] == 1
		case n > 1:
			one.binary = m.ParameterFormatCodes[i] == 1
		}
		if i < len(types) {
			one.kind = types[i]
		}
		p.parameters = append(p.parameters, one)
	}
	return s.keep(item{raw: raw, expects: &expected{kind: 'B', name: m.DestinationPortal, portal: p}})
}

// describe takes a Describe or a Close.
func (s *session) describe(ctx context.Context, raw []byte) error {
	body := raw[headSize:]
	if len(body) < 2 || body[0] != 'S' && body[0] != 'P' {
		return malformed(raw[0])
	}
	name, ok := oneCstring(body[1:])
	if !ok {
		return malformed(raw[0])
	}
	if err := s.answered(ctx); err != nil {
		return err
	}
	e := &expected{kind: raw[0]}
	switch {
	case raw[0] == 'C':
		if strings.HasPrefix(name, own) {
			return s.fail(&failure{code: "42602", message: fmt.Sprintf("names that begin with %q are the gateway's", own)})
		}
		e.closes, e.name = body[0], name
	case body[0] == 'S':
		if e.prepared = s.named(name); e.prepared == nil {
			return s.fail(&failure{code: "26000", message: fmt.Sprintf("prepared statement %.64q does not exist", name)})
		}
	case strings.HasPrefix(name, own): // any other portal may be a cursor that was declared
		return s.fail(&failure{code: "34000", message: fmt.Sprintf("portal %.64q does not exist", name)})
	}
	return s.keep(item{raw: raw, expects: e})
}

// answered waits for the target where something was sent that can change what a name means: a DEALLOCATE and PREPARE, a CLOSE and
// DECLARE. A Bind or an Execute by that name would otherwise be judged as what it was.
func (s *session) answered(ctx context.Context) error {
	if !s.stale {
		return nil
	}
	s.mu.Lock()
	busy := len(s.queue) > 0
	s.mu.Unlock()
	if busy {
		if _, err := s.to.Write(appendMessage(nil, 'H')); err != nil {
			return err
		}
		if err := s.settled(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	unsure := len(s.unsure.prepared)+len(s.unsure.portals) > 0
	s.mu.Unlock()
	if unsure && !s.piped {
		return s.refresh(ctx, false)
	}
	return nil
}

// named is the prepared statement of that name, as the server will have it once it has done what came before.
func (s *session) named(name string) *prepared {
	for i := len(s.batch) - 1; i >= 0; i-- {
		switch e := s.batch[i].expects; {
		case e.kind == 'P' && e.name == name:
			return e.prepared
		case e.kind == 'C' && e.closes == 'S' && e.name == name:
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.queue) - 1; i >= 0; i-- {
		switch e := s.queue[i]; {
		case e.own != nil:
		case e.kind == 'P' && e.name == name:
			return e.prepared
		case e.kind == 'C' && e.closes == 'S' && e.name == name:
			return nil
		}
	}
	return s.prepared[name]
}

// portal is likewise for portals.
func (s *session) portal(name string) *portal {
	for i := len(s.batch) - 1; i >= 0; i-- {
		switch e := s.batch[i].expects; {
		case e.kind == 'B' && e.name == name:
			return e.portal
		case e.kind == 'C' && e.closes == 'P' && e.name == name:
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.queue) - 1; i >= 0; i-- {
		switch e := s.queue[i]; {
		case e.own != nil:
		case e.kind == 'B' && e.name == name:
			return e.portal
		case e.kind == 'C' && e.closes == 'P' && e.name == name:
			return nil
		}
	}
	return s.portals[name]
}

// described takes the types of the parameters, as the server has found them. mu is held.
func (p *prepared) described(body []byte) {
	if len(body) < 2 || len(body) != 2+4*int(binary.BigEndian.Uint16(body)) {
		return
	}
	list := make([]uint32, 0, len(body)/4)
	for body = body[2:]; len(body) > 0; body = body[4:] {
		list = append(list, binary.BigEndian.Uint32(body))
	}
	p.types = list
}

// execute takes an Execute: here its statement is decided, with its values.
func (s *session) execute(ctx context.Context, raw []byte) error {
	name, rest, ok := cutCstring(raw[headSize:])
	if !ok || len(rest) != 4 {
		return malformed('E')
	}
	if err := s.answered(ctx); err != nil {
		return err
	}
	p := s.portal(name)
	if p == nil {
		return s.fail(&failure{code: "34000", message: fmt.Sprintf("portal %.64q does not exist", name)})
	}
	if s.skipped() {
		return s.send(raw, &expected{kind: 'E'})
	}
	if err := s.awaitCut(); err != nil || s.discarding {
		return err
	}
	if err := s.refresh(ctx, true); err != nil {
		return err
	}
	if learnt, err := s.learn(ctx, p); err != nil || !learnt {
		return err
	}
	if s.skipped() {
		return s.send(raw, &expected{kind: 'E'})
	}
	list, f := s.readText(ctx, p.of.text, s.typesOf(p.of), p.parameters, p.of.size+p.size)
	if f == nil && len(list) > 1 {
		f = &failure{code: "42601", message: "cannot insert multiple commands into a prepared statement"}
	}
	if f != nil {
		return s.fail(f)
	}
	j := list[0]
	runs, f := s.decideAll(ctx, list)
	if f != nil {
		return s.fail(f)
	}
	for i := range s.batch { // this decision is theirs too
		if s.batch[i].parse == p.of {
			s.batch[i].parse = nil
		}
	}
	if f := s.decideParses(ctx); f != nil {
		s.withdraw(j)
		return s.fail(f)
	}
	if err := s.arm(list, s.piped); err != nil {
		return err
	}
	s.arms(runs)
	runs[0].limits.total = &p.total
	if runs[0].mask != nil && j.analysis.Copy == nil { // rows alone do not say of which types they are
		ask := appendMessage(nil, 'D', []byte{'P'}, cstring(name))
		if err := s.send(ask, &expected{kind: 'D', own: &asked{}, about: runs[0]}); err != nil {
			return err
		}
	}
	if err := s.send(raw, &expected{kind: 'E', runs: runs}); err != nil {
		return err
	}
	if j.copiesIn() {
		return s.awaitCopy()
	}
	return nil
}

// copiesIn reports whether a statement takes COPY data of the agent's.
func (j *judged) copiesIn() bool {
	c := j.analysis.Copy
	return c != nil && c.In && !c.File && !c.Program
}

// skipped reports whether the target skips what it gets: an earlier statement of the pipeline has failed.
func (s *session) skipped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipping
}

// learn asks the server of which types the values of a portal are, where policy looks at values and the agent has not said: without its type
// a value cannot be read. It is false where the statement was refused.
func (s *session) learn(ctx context.Context, p *portal) (bool, error) {
	untyped := slices.ContainsFunc(p.parameters, func(v parameter) bool { return v.kind == 0 && !v.null })
	if !untyped || !s.looksAtValues() {
		return true, nil
	}
	if f := s.decideParses(ctx); f != nil {
		return false, s.fail(f)
	}
	a, name := &asked{}, cstring(own+"_types")
	types := binary.BigEndian.AppendUint16(nil, uint16(len(s.typesOf(p.of))))
	for _, t := range s.typesOf(p.of) {
		types = binary.BigEndian.AppendUint32(types, t)
	}
	for _, m := range []struct {
		raw     []byte
		expects *expected
	}{
		{appendMessage(nil, 'P', name, cstring(p.of.text), types), &expected{kind: 'P', own: a}},
		{appendMessage(nil, 'D', []byte{'S'}, name), &expected{kind: 'D', own: a, prepared: p.of}},
		{appendMessage(nil, 'C', []byte{'S'}, name), &expected{kind: 'C', own: a}},
		{appendMessage(nil, 'H'), nil},
	} {
		if err := s.send(m.raw, m.expects); err != nil {
			return false, err
		}
	}
	if err := s.settled(); err != nil {
		return false, err
	}
	if a.err != nil {
		return false, (&failure{code: codeUnavailable, message: "the gateway could not ask the database of which types the values are", hint: "Connect again."}).ended()
	}
	for i, t := range s.typesOf(p.of) {
		if i < len(p.parameters) && p.parameters[i].kind == 0 {
			p.parameters[i].kind = t
		}
	}
	return true, nil
}

// looksAtValues reports whether a ruling can depend on the values of a statement.
func (s *session) looksAtValues() bool {
	st := s.server.lane.State()
	if st == nil || st.Resources[s.resource] == nil {
		return true
	}
	rules, ok := st.Gate.Policy.(interface {
		LooksAt(policy string, members ...string) bool
	})
	return !ok || rules.LooksAt(st.Resources[s.resource].Policy, "parameters")
}

func (s *session) typesOf(p *prepared) []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.types
}

// forget forgets, of what the agent has made by messages, what a statement may have changed by SQL: an Execute by such a name would be
// judged as something else than what runs. mu is held.
func (s *session) forget(changes []statement.Change) {
	for _, c := range changes {
		switch c.What {
		case statement.Declared, statement.Closed:
			delete(s.portals, c.Name)
		case statement.CloseAll:
			clear(s.portals)
		case statement.Prepared, statement.Deallocated:
			delete(s.prepared, c.Name)
		case statement.DeallocateAll:
			clear(s.prepared)
		case statement.DiscardAll:
			clear(s.portals)
			clear(s.prepared)
		case statement.Uncertain:
			s.doubt()
		}
	}
}

// doubt puts aside what the agent has made by messages and named, because code that nobody can see into has run: it can have put another statement
// in the place of one. mu is held.
func (s *session) doubt() {
	if s.unsure.prepared == nil {
		s.unsure.prepared, s.unsure.portals = map[string]*prepared{}, map[string]*portal{}
	}
	move(s.unsure.prepared, s.prepared)
	move(s.unsure.portals, s.portals)
}

// move moves what has a name: SQL cannot name what has none.
func move[V any](to, from map[string]V) {
	for name, v := range from {
		if name != "" {
			to[name] = v
			delete(from, name)
		}
	}
}

// made asks which statements and portals there are, each with its text.
const made = "SELECT 'S', name, statement FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql UNION ALL SELECT 'P', name, statement FROM pg_catalog.pg_cursors"

// settleDoubt takes back what the server still has as the agent made it.
func (s *session) settleDoubt(ctx context.Context) error {
	s.mu.Lock()
	unsure := s.unsure
	s.unsure.prepared, s.unsure.portals = nil, nil
	s.mu.Unlock()
	cursors := s.state.Unsure
	s.state.Unsure = nil
	if len(unsure.prepared)+len(unsure.portals)+len(cursors) == 0 {
		return nil
	}
	rows, err := s.ask(ctx, made)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range rows {
		if len(row) != 3 {
			continue
		}
		of, name, text := row[0], row[1], row[2]
		if p := unsure.prepared[name]; of == "S" && p != nil && p.text == text && s.prepared[name] == nil {
			s.prepared[name] = p
			s.remember(name, p)
		}
		if p := unsure.portals[name]; of == "P" && p != nil && p.of.text == text && s.portals[name] == nil {
			s.portals[name] = p
		}
		if c := cursors[name]; of == "P" && c != nil && c.Text == strings.TrimRight(text, "; \t\r\n") {
			s.state.Cursors[name] = c
		}
	}
	return nil
}

// remember tells the state of a statement that is prepared: EXECUTE can name it too. mu is held.
func (s *session) remember(name string, p *prepared) {
	if list, err := statement.Parse(p.text, s.state.StandardConformingStrings); err == nil && len(list) == 1 {
		one := list[0]
		one.Parameters = p.types
		s.state.Prepared[name] = one
	} else {
		delete(s.state.Prepared, name)
	}
}

// decideParses decides what is prepared and does not run yet.
func (s *session) decideParses(ctx context.Context) *failure {
	for i := range s.batch {
		p := s.batch[i].parse
		if p == nil {
			continue
		}
		list, f := s.readText(ctx, p.text, s.typesOf(p), nil, p.size)
		if f == nil && len(list) > 1 {
			f = &failure{code: "42601", message: "cannot insert multiple commands into a prepared statement"}
		}
		if f != nil {
			return f
		}
		list[0].phase = phaseParse
		runs, f := s.decideAll(ctx, list)
		if f != nil {
			return f
		}
		s.batch[i].parse, s.batch[i].expects.runs = nil, runs
	}
	return nil
}

// send sends what was kept back, and one message more.
func (s *session) send(raw []byte, e *expected) error {
	list := make([]*expected, 0, len(s.batch)+1)
	for _, i := range s.batch {
		list = append(list, i.expects)
		if e := i.expects; e.name != "" && (e.kind == 'P' || e.closes == 'S') {
			s.stale = true // an EXECUTE by this name is looked at once the server has it
		}
	}
	s.piped = raw[0] != 'S' && (raw[0] != 'H' || s.piped || len(s.batch) > 0) // a Flush begins nothing
	if e != nil {
		list = append(list, e)
	}
	s.expect(list...)
	for _, i := range s.batch {
		if _, err := s.to.Write(i.raw); err != nil {
			return err
		}
	}
	s.batch, s.batched = s.batch[:0], 0
	clear(s.batch[:cap(s.batch)])
	_, err := s.to.Write(raw)
	return err
}

// sync takes a Sync or a Flush.
func (s *session) sync(ctx context.Context, raw []byte) error {
	if err := s.awaitCut(); err != nil {
		return err
	}
	if !s.discarding && !s.skipped() && s.undecided() {
		if err := s.refresh(ctx, true); err != nil {
			return err
		}
		if f := s.decideParses(ctx); f != nil {
			if err := s.fail(f); err != nil {
				return err
			}
		}
	}
	var e *expected
	if raw[0] == 'S' {
		e = &expected{kind: 'S'}
		s.discarding = false
	}
	if err := s.send(raw, e); err != nil {
		return err
	}
	return s.to.Flush()
}

func (s *session) undecided() bool {
	for i := range s.batch {
		if s.batch[i].parse != nil {
			return true
		}
	}
	return false
}

// fail refuses what was asked last in a pipeline. What was kept back does not go to the target, and what follows is discarded until Sync.
func (s *session) fail(f *failure) error {
	if f.fatal {
		return f
	}
	s.batch, s.batched = s.batch[:0], 0
	clear(s.batch[:cap(s.batch)])
	s.discarding, s.piped = true, true
	s.expect(&expected{kind: 'E', refusal: f})
	if _, err := s.to.Write(append(failing(), appendMessage(nil, 'H')...)); err != nil {
		return err
	}
	return s.to.Flush()
}

// awaitCopy waits until the target takes COPY data, or has said that it does not.
func (s *session) awaitCopy() error {
	if _, err := s.to.Write(appendMessage(nil, 'H')); err != nil {
		return err
	}
	if err := s.to.Flush(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && !s.copying && len(s.queue) > 0 {
		s.moved.Wait()
	}
	return nil
}
