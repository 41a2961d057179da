package session

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/mask"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/redact"
)

// veil is what of messages in words (errors, notices, notifications, settings) does not pass, because of what policy redacts in the rows beside them.
// It does not change. nil lets everything pass.
type veil struct {
	columns bool         // values of columns that are masked could be in them
	texts   *redact.Plan // detectors look at what is left; nil where there are none
	runs    bool         // the statement runs code that nobody has read
}

// veils is the veil of a statement by the redactions of its ruling. The session keeps what they say, for what belongs to no statement.
func (s *session) veils(redactions []gate.Redaction, a *statement.Analysis) *veil {
	v := &veil{columns: mask.Guards(redactions, a), runs: mask.RunsCode(a)}
	if mask.Detects(redactions) {
		if plan, err := s.target.Plans.Plan(redactions, nil); err == nil && plan.Detects() {
			v.texts = plan
		} else {
			v.columns = true // nothing passes that could not be looked at
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := veil{columns: mask.Columns(redactions), texts: v.texts}
	if s.veil != nil {
		kept.columns = kept.columns || s.veil.columns
		if kept.texts == nil {
			kept.texts = s.veil.texts
		}
	}
	s.veil = &kept
	return v
}

// veilOf is the veil of what is under way, or the session's own. mu is held.
func (s *session) veilOf(e *expected) *veil {
	if e == nil {
		return s.veil
	}
	var all *veil
	for _, r := range e.runs {
		switch {
		case r.veil == nil:
		case all == nil:
			one := *r.veil
			all = &one
		default:
			all.columns, all.runs = all.columns || r.veil.columns, all.runs || r.veil.runs
			if all.texts == nil {
				all.texts = r.veil.texts
			}
		}
	}
	return all
}

// text is what passes of a text.
func (v *veil) text(s string) string {
	if v == nil || v.texts == nil {
		return s
	}
	s, _ = v.texts.Text(s)
	return s
}

// notice is what passes of a NoticeResponse; nil where nothing does. What a statement says beside its answer can have whole rows in it.
func (v *veil) notice(raw []byte) []byte {
	switch {
	case v == nil:
		return raw
	case v.columns:
		return nil
	}
	return v.fields(raw, func(_ byte, value string) (string, bool) { return v.text(value), true })
}

// withheldMessage is in the place of the message of an error.
const withheldMessage = "the database refused the statement; its message is withheld, since it can have masked values in it"

// error is what passes of an ErrorResponse: its code, and the names of what it is about. Its detail, hint and context can have whole rows in
// them, and so can the messages of most classes.
func (v *veil) error(raw []byte) []byte {
	if v == nil {
		return raw
	}
	code, _ := errorFields(raw[headSize:])
	return v.fields(raw, func(of byte, value string) (string, bool) {
		switch {
		case strings.IndexByte("SVC", of) >= 0:
			return value, true
		case !v.columns:
		case of == 'M' && (v.runs || !open(code)):
			return withheldMessage, true
		case strings.IndexByte("MP", of) >= 0, strings.IndexByte("stcdn", of) >= 0 && !v.runs:
		default:
			return "", false
		}
		return v.text(value), true
	})
}

// classes are those of SQLSTATE whose messages name what the statement names, and no values: nor sizes, which 53 and 54 have. What code of somebody's
// own says may have any code.
var classes = []string{"08", "0A", "23", "25", "26", "34", "3D", "3F", "40", "42", "55", "57", "58"}

func open(code string) bool {
	return len(code) == 5 && slices.Contains(classes, code[:2]) || code == "54001"
}

// fields writes an error or a notice anew, with each of its fields as f has it, or without.
func (v *veil) fields(raw []byte, f func(of byte, value string) (string, bool)) []byte {
	var out []byte
	for body := raw[headSize:]; len(body) > 1; {
		of := body[0]
		value, rest, ok := cutCstring(body[1:])
		if !ok {
			break
		}
		body = rest
		if value, ok = f(of, value); ok {
			out = append(append(append(out, of), value...), 0)
		}
	}
	return appendMessage(nil, raw[0], append(out, 0))
}

// notification is what passes of a NotificationResponse. Anybody's trigger may send what a row has, and nobody knows of which column it is: so the payload
// is masked where policy masks columns.
func (v *veil) notification(raw []byte) []byte {
	const process = 4
	if v == nil || len(raw) < headSize+process {
		return raw
	}
	channel, rest, ok := cutCstring(raw[headSize+process:])
	payload, left, whole := cutCstring(rest)
	if payload = v.text(payload); v.columns || !ok || !whole || len(left) != 0 {
		payload = mask.Mask
	}
	return appendMessage(nil, raw[0], raw[headSize:headSize+process], cstring(v.text(channel)), cstring(payload))
}

// setting is what passes of a ParameterStatus; nil where nothing does. Of what the server reports two settings can be any text, and code that the statement
// runs may set them.
func (v *veil) setting(raw []byte, name, value string) []byte {
	switch {
	case v == nil || name != "application_name" && name != "search_path":
		return raw
	case v.columns && v.runs:
		return nil
	}
	return appendMessage(nil, raw[0], cstring(name), cstring(v.text(value)))
}
