package session

import (
	"context"
	"errors"
	"slices"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// query takes a simple Query. All its statements are decided before any is sent, and it is sent in the bytes in which it came.
func (s *session) query(ctx context.Context, raw []byte) error {
	if s.steady() {
		return &failure{code: codeProtocol, message: "a statement came within COPY data"}
	}
	text, ok := oneCstring(raw[headSize:])
	if !ok {
		return malformed('Q')
	}
	if s.discarding || s.piped || len(s.batch) > 0 { // a pipeline without its Sync
		return &failure{code: codeProtocol, message: "a simple query came within a pipeline"}
	}
	if err := s.settled(); err != nil {
		return err
	}
	if err := s.failNow(); err != nil {
		return err
	}
	if err := s.refresh(ctx, false); err != nil {
		return err
	}
	list, f := s.readText(ctx, text, nil, nil, len(raw))
	if f != nil {
		return s.refuseQuery(f)
	}
	runs, f := s.decideAll(ctx, list)
	if f != nil {
		if f.fatal {
			return f
		}
		return s.refuseQuery(f)
	}
	s.mu.Lock()
	delete(s.prepared, "") // as the server does
	delete(s.portals, "")
	s.mu.Unlock()
	if err := s.arm(list, false); err != nil {
		return err
	}
	s.arms(runs)
	s.stays(list, runs)
	s.expect(&expected{kind: 'Q', runs: runs})
	if _, err := s.to.Write(raw); err != nil {
		return err
	}
	return s.to.Flush()
}

// readText reads the statements of a text, each by the state that those before it will leave.
func (s *session) readText(ctx context.Context, text string, types []uint32, values []parameter, size int) ([]*judged, *failure) {
	list, err := statement.Parse(text, s.state.StandardConformingStrings)
	if err != nil {
		return nil, s.unparsed(ctx, text, size, err)
	}
	if len(list) == 0 {
		list = []statement.Statement{statement.Empty(text)}
	}
	out := s.readEach(list, types, values, size)
	if s.missesNames(out) {
		s.server.catalog(s.target).Changed(s.database)
		catalog, err := s.server.catalog(s.target).Get(ctx, s.key0(), s.ask)
		if err != nil {
			return nil, &failure{code: codeUnavailable, message: "the gateway could not ask the database for its catalog", hint: "Connect again."}
		}
		if catalog != s.catalog {
			s.catalog = catalog
			out = s.readEach(list, types, values, size)
		}
	}
	return out, nil
}

func (s *session) readEach(list []statement.Statement, types []uint32, values []parameter, size int) []*judged {
	out := make([]*judged, len(list))
	ahead, earlier := s.state, s.earlier
	for i, one := range list {
		one.Parameters = types
		out[i] = s.look(one, ahead, values, size/len(list))
		out[i].earlier = earlier
		earlier = out[i].after(earlier)
		if i+1 < len(list) {
			if i == 0 {
				ahead = ahead.Clone()
			}
			ahead.Apply(out[i].analysis.Changes)
		}
	}
	return out
}

// missesNames says that a statement names what the catalog has not, outside of any transaction: somebody else may have made it a moment ago.
func (s *session) missesNames(list []*judged) bool {
	if s.piped || s.state.Transaction != statement.Idle {
		return false
	}
	return slices.ContainsFunc(list, func(j *judged) bool {
		return j.fault != nil && slices.Contains([]string{"3F000", "42703", "42704", "42883", "42P01"}, j.fault.code)
	})
}

// unparsed records that a text could not be parsed.
func (s *session) unparsed(ctx context.Context, text string, size int, err error) *failure {
	f := &failure{code: "42601", message: "the statement cannot be read"}
	var syntax *statement.SyntaxError
	if errors.As(err, &syntax) {
		f.code, f.message, f.position = syntax.Code, syntax.Message, syntax.Position
	}
	if s.catalog != nil && s.catalog.Version >= statement.Newer {
		f.hint = "The gateway reads statements as PostgreSQL 17 does. What newer ones have beside that is refused: write it otherwise."
	}
	j := &judged{statement: statement.Statement{Text: text, Of: 1}, state: s.state, catalog: s.catalog, fault: f, phase: phaseExecute, size: size}
	j.analysis.Access = statement.Unknown
	if broken := s.begin(j); broken != nil {
		return broken
	}
	j.attempt.Op.Target = "" // where a literal ends in it cannot be told
	s.count.statements.Add(1)
	return s.doubted(ctx, j)
}

// decideAll decides statements of which all run or none.
func (s *session) decideAll(ctx context.Context, list []*judged) ([]*run, *failure) {
	mix(list)
	if len(list) > 1 {
		if i := s.anyRefused(ctx, list); i >= 0 {
			if f := s.decide(ctx, list[i]); f != nil {
				return nil, f
			}
			s.withdraw(list[i]) // what policy says has changed in between
			return nil, &failure{code: codeUnavailable, message: "policy changed while the query was looked at", hint: "Send it again."}
		}
	}
	runs := make([]*run, 0, len(list))
	for i, j := range list {
		if f := s.decide(ctx, j); f != nil {
			for _, allowed := range list[:i] {
				s.withdraw(allowed)
			}
			return nil, f
		}
	}
	for _, j := range list {
		runs = append(runs, s.running(j))
	}
	return runs, nil
}

// refuseQuery refuses a simple query, and has the server fail the transaction.
func (s *session) refuseQuery(f *failure) error {
	if f.fatal {
		return f
	}
	s.expect(&expected{kind: 'E', refusal: f}, &expected{kind: 'S'})
	if _, err := s.to.Write(append(failing(), appendMessage(nil, 'S')...)); err != nil {
		return err
	}
	return s.to.Flush()
}

// nowhere is a portal that there is not. An agent cannot make one of that name.
const nowhere = own + "_refused"

// own begins the names of what the gateway itself makes at the server.
const own = "countersign"

// failing is a message that fails at the server for certain, and does nothing else: it leaves the transaction, and the pipeline, as
// an error of the refused statement would.
func failing() []byte { return appendMessage(nil, 'E', cstring(nowhere), []byte{0, 0, 0, 0}) }
