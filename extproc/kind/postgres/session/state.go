package session

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// question asks the server for what of the session changes what a statement means.
const question = "SELECT pg_catalog.current_setting('search_path'), current_user::pg_catalog.text, session_user::pg_catalog.text, " +
	"pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.current_setting('client_encoding')"

var errSkipped = errors.New("the server skipped the question")

// asking is the question as messages of the extended protocol, so that it fits into a pipeline. It leaves nothing behind.
func asking() []byte {
	name := cstring(own + "_state")
	none := binary.BigEndian.AppendUint16(nil, 0)
	b := appendMessage(nil, 'P', name, cstring(question), none)
	b = appendMessage(b, 'B', name, name, none, none, none)
	b = appendMessage(b, 'E', name, []byte{0, 0, 0, 0})
	b = appendMessage(b, 'C', []byte{'P'}, name)
	return appendMessage(b, 'C', []byte{'S'}, name)
}

// refresh asks the server for the state, if it can be another than what is known here. pipelined says that there is a pipeline, whose
// implicit transaction must not end.
func (s *session) refresh(ctx context.Context, pipelined bool) error {
	if !s.stale {
		s.mu.Lock()
		s.state.Transaction = inWords(s.status)
		s.mu.Unlock()
		return nil
	}
	if pipelined {
		s.expect() // what is under way has to be answered first
		if _, err := s.to.Write(appendMessage(nil, 'H')); err != nil {
			return err
		}
	}
	if err := s.settled(); err != nil {
		return err
	}
	s.mu.Lock()
	status, skipping := s.status, s.skipping
	s.state.Transaction = inWords(status)
	if status == 'I' {
		s.earlier = nil
	}
	s.mu.Unlock()
	if status == 'E' || skipping {
		return nil // the server answers nothing: what runs next ends the transaction, and is judged by itself
	}
	a := &asked{}
	list := []*expected{{kind: 'P', own: a}, {kind: 'B', own: a}, {kind: 'E', own: a}, {kind: 'C', own: a}, {kind: 'C', own: a}}
	b := asking()
	if pipelined {
		b = appendMessage(b, 'H')
	} else {
		list, b = append(list, &expected{kind: 'S', own: a}), appendMessage(b, 'S')
	}
	s.expect(list...)
	if _, err := s.to.Write(b); err != nil {
		return err
	}
	if err := s.settled(); err != nil {
		return err
	}
	if a.err != nil {
		return fmt.Errorf("ask for the session's state: %w", a.err)
	}
	if err := s.take(a.values); err != nil {
		return err
	}
	s.stale = false
	return nil
}

// take makes the server's answer the state.
func (s *session) take(values []string) error {
	if len(values) != 5 {
		return fmt.Errorf("the server answered the question for the session's state with %d values", len(values))
	}
	path, err := splitPath(values[0])
	if err != nil {
		return err
	}
	if !utf8Named(values[4]) {
		return &failure{code: codeUnsupported, message: fmt.Sprintf("client_encoding became %.64q, in which statements cannot be read here", values[4]), hint: "Use UTF8."}
	}
	s.state.SearchPath, s.state.Role, s.state.SessionRole = path, values[1], values[2]
	s.state.StandardConformingStrings = values[3] == "on"
	return nil
}

// firstState asks for the state while nobody else reads the server.
func (s *session) firstState(_ context.Context, up *server) error {
	if _, err := up.Write(appendMessage(asking(), 'S')); err != nil {
		return err
	}
	var got []string
	for {
		kind, body, err := up.next()
		switch {
		case err != nil:
			return err
		case kind == 'D':
			if got, err = values(body); err != nil {
				return err
			}
		case kind == 'Z':
			return s.take(got)
		}
	}
}

// inWords is a transaction's status as policy sees it.
func inWords(status byte) string {
	switch status {
	case 'I':
		return statement.Idle
	case 'T':
		return statement.Open
	default:
		return statement.Failed
	}
}

// splitPath reads the value of search_path: names, quoted or not, with commas between them.
func splitPath(text string) (list []string, err error) {
	for rest := strings.TrimSpace(text); rest != ""; {
		var name string
		if rest[0] == '"' {
			var b strings.Builder
			end := -1
			for i := 1; i < len(rest); i++ {
				if rest[i] == '"' {
					if i+1 < len(rest) && rest[i+1] == '"' {
						i++
					} else {
						end = i
						break
					}
				}
				b.WriteByte(rest[i])
			}
			if end < 0 {
				return nil, fmt.Errorf("search_path is %.128q, which cannot be read", text)
			}
			name, rest = b.String(), strings.TrimSpace(rest[end+1:])
		} else {
			end := strings.IndexByte(rest, ',')
			if end < 0 {
				end = len(rest)
			}
			name, rest = strings.ToLower(strings.TrimSpace(rest[:end])), rest[end:]
		}
		list = append(list, name)
		if rest == "" {
			break
		}
		if rest[0] != ',' {
			return nil, fmt.Errorf("search_path is %.128q, which cannot be read", text)
		}
		rest = strings.TrimSpace(rest[1:])
	}
	return list, nil
}
