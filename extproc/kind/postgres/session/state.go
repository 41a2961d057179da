package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/kind/postgres/catalog"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// question asks the server for the settings that change what a statement means.
const question = "SELECT session_user::pg_catalog.text, current_user::pg_catalog.text, pg_catalog.current_setting('search_path'), " +
	"pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.current_setting('application_name')"

// mostCustom bounds of how many parameters of an agent's own the server is asked.
const mostCustom = 50

var errSkipped = errors.New("the server skipped a question of the gateway")

// asking is a question as messages of the extended protocol: so that it fits into a pipeline, and because a simple query would remove
// the agent's unnamed statement. It leaves nothing behind.
func asking(sql string, types []uint32, values []parameter) []byte {
	name := cstring(own + "_question")
	none := binary.BigEndian.AppendUint16(nil, 0)
	kinds := binary.BigEndian.AppendUint16(nil, uint16(len(types)))
	for _, t := range types {
		kinds = binary.BigEndian.AppendUint32(kinds, t)
	}
	formats := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	given := slices.Clone(formats)
	for _, v := range values {
		format, length := uint16(0), uint32(len(v.raw))
		if v.binary {
			format = 1
		}
		if v.null {
			length = 1<<32 - 1
		}
		formats = binary.BigEndian.AppendUint16(formats, format)
		given = append(binary.BigEndian.AppendUint32(given, length), v.raw...)
	}
	b := appendMessage(nil, 'P', name, cstring(sql), kinds)
	b = appendMessage(b, 'B', name, name, formats, given, none)
	b = appendMessage(b, 'E', name, []byte{0, 0, 0, 0})
	b = appendMessage(b, 'C', []byte{'P'}, name)
	return appendMessage(b, 'C', []byte{'S'}, name)
}

// ask has the server run a statement of the gateway's own. Nothing else is under way.
func (s *session) ask(_ context.Context, sql string) ([][]string, error) { return s.asked(sql, false) }

// asked is ask. Where a pipeline is open, its transaction does not end.
func (s *session) asked(sql string, open bool) ([][]string, error) {
	return s.askedWith(sql, nil, nil, open)
}

// askedWith is asked with parameters, of which types are the types that are known.
func (s *session) askedWith(sql string, types []uint32, values []parameter, open bool) ([][]string, error) {
	if err := s.settled(); err != nil {
		return nil, err
	}
	s.uncancelled()
	a := &asked{}
	list := []*expected{{kind: 'P', own: a}, {kind: 'B', own: a}, {kind: 'E', own: a}, {kind: 'C', own: a}, {kind: 'C', own: a}}
	b := asking(sql, types, values)
	if open {
		b = appendMessage(b, 'H')
	} else {
		list, b = append(list, &expected{kind: 'S', own: a}), appendMessage(b, 'S')
	}
	s.expect(list...)
	if _, err := s.to.Write(b); err != nil {
		return nil, err
	}
	if err := s.settled(); err != nil {
		return nil, err
	}
	return a.rows, a.err
}

// uncancelled waits until a request to cancel what the agent did has come to the server: it would cancel the question.
func (s *session) uncancelled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.cancelling && !s.over {
		s.moved.Wait()
	}
}

// askNow is ask while nobody else reads the server.
func (s *session) askNow(_ context.Context, sql string) (rows [][]string, err error) {
	if _, err := s.up.Write(appendMessage(nil, 'Q', cstring(sql))); err != nil {
		return nil, err
	}
	var failed error
	for {
		kind, body, err := s.up.next()
		var told *serverError
		switch {
		case errors.As(err, &told):
			failed = err
		case err != nil:
			return nil, err
		case kind == 'D':
			row, err := values(body)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		case kind == 'Z':
			return rows, failed
		}
	}
}

// firstState asks for the state of a session that has just begun, and for the catalog.
func (s *session) firstState(ctx context.Context, _ *server) (err error) {
	if s.state, err = catalog.Session(ctx, s.askNow); err != nil {
		return err
	}
	s.state.Harmless = s.target.Harmless
	s.catalog, err = s.server.catalog(s.target).Get(ctx, s.key0(), s.askNow)
	return err
}

// key0 is whose catalog statements are read by.
func (s *session) key0() catalog.Key { return catalog.Key{Database: s.database, Role: s.state.Role} }

// refresh makes the state and the catalog those that the next statement will find. pipelined says that there is a pipeline, whose
// implicit transaction must not end.
func (s *session) refresh(ctx context.Context, pipelined bool) error {
	err := s.bringUp(ctx, pipelined)
	if f := (*failure)(nil); err != nil && !errors.As(err, &f) && !errors.Is(err, io.EOF) {
		s.server.lane.Log.Warn("the state of a session could not be had", "session", s.id, "error", err)
		return &failure{code: codeUnavailable, message: "the gateway could not ask the database for the state of the session", hint: "Connect again."}
	}
	return err
}

func (s *session) bringUp(ctx context.Context, pipelined bool) error {
	if s.stale {
		if pipelined { // the server answers what it has by now
			if _, err := s.to.Write(appendMessage(nil, 'H')); err != nil {
				return err
			}
		}
		if err := s.settled(); err != nil {
			return err
		}
	}
	status, open := s.catchUp(pipelined)
	if s.state.Transaction == statement.Idle && !open {
		s.earlier = nil
	}
	if status == 'E' || s.skipped() { // the server answers nothing, and what it runs now needs no catalog
		if s.catalog.Role != s.state.Role {
			s.catalog, s.bare = &statement.Catalog{Database: s.database, Role: s.state.Role}, true
		}
		return nil
	}
	if s.stale && s.asks && s.state.Stale == "" {
		if err := s.askSettings(open); err != nil {
			return err
		}
	}
	s.stale, s.asks = false, false
	return s.lookAgain(ctx, status, open)
}

// catchUp tells the state what has happened. open says that something of a pipeline is with the server, and so its transaction.
func (s *session) catchUp(pipelined bool) (status byte, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		switch {
		case e.failed:
			s.state.Fail()
		case e.ready != 0:
			s.state.Ready(e.ready)
		case e.parsed != nil:
			s.remember(e.parsed.name, e.parsed.as)
		case e.closed != nil && e.closed.of == 'S':
			delete(s.state.Prepared, e.closed.name)
		case e.closed != nil:
			delete(s.state.Cursors, e.closed.name)
		default:
			s.state.Apply(e.changes)
		}
	}
	s.events = s.events[:0]
	return s.status, pipelined && s.piped
}

// askSettings asks the server for the settings, within a pipeline where one is open.
func (s *session) askSettings(open bool) error {
	sql := question + catalog.Meaning()
	for _, name := range s.custom {
		sql += ", pg_catalog.current_setting('" + strings.ReplaceAll(name, "'", "''") + "', true)"
	}
	rows, err := s.asked(sql, open)
	if err != nil || len(rows) != 1 || len(rows[0]) < 5+len(s.custom) {
		return fmt.Errorf("ask for the session's settings: %d rows: %w", len(rows), err)
	}
	path, ok := statement.SplitPath(rows[0][2])
	if !ok {
		return fmt.Errorf("ask for the session's settings: search_path is %.128q", rows[0][2])
	}
	s.state.Refresh(rows[0][0], rows[0][1], path, rows[0][3] == "on", s.state.Temp, s.state.TempTypes)
	end := len(rows[0]) - len(s.custom)
	s.state.Settings = catalog.Meanings(rows[0][5:end])
	for i, name := range s.custom {
		s.state.Settings = append(s.state.Settings, name+"="+rows[0][end+i])
	}
	if called := rows[0][4]; !strings.HasSuffix(called, nameOf(s.id)) { // the target's log is held against the records by it
		_, err = s.asked("SELECT pg_catalog.set_config('application_name', '"+strings.ReplaceAll(applicationName(called, s.id), "'", "''")+"', false)", open)
	}
	return err
}

// lookAgain reads what of the catalog may have changed.
func (s *session) lookAgain(ctx context.Context, status byte, open bool) error {
	if open {
		return nil // a question would end the pipeline's transaction; where the state is not known, nothing runs until Sync
	}
	if err := s.settleDoubt(ctx); err != nil {
		return err
	}
	if s.state.Stale != "" {
		if err := catalog.Refresh(ctx, s.ask, s.state, status == 'T'); err != nil {
			return err
		}
		if len(s.custom) > 0 {
			if err := s.askSettings(open); err != nil {
				return err
			}
		}
		s.server.catalog(s.target).Changed(s.database)
		s.bare = true
	}
	var err error
	switch {
	case status == 'T' && !s.bare && s.catalog.Role == s.state.Role:
		return nil
	case status == 'T':
		s.catalog, err = catalog.Read(ctx, s.ask, true)
	default:
		s.catalog, err = s.server.catalog(s.target).Get(ctx, s.key0(), s.ask)
	}
	if err == nil {
		s.bare = false
	}
	return err
}
