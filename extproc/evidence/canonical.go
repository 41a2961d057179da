package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
)

// maxDepth bounds how deep a record nests, so that no record can exhaust the stack of whoever verifies it.
const maxDepth = 128

// scanner walks bytes that must be one canonical JSON value, as gate.AppendJSON writes it. It runs for every record that is
// appended or verified, so it allocates nothing for what most records consist of.
type scanner struct {
	b       []byte
	i       int
	escapes bool // the string that text returned last has some
}

// scanObject checks that b is exactly one JSON object in canonical form, and calls visit, unless it is nil, for each member. Names
// and values are as they stand in b; a name is without its quotes.
func scanObject(b []byte, visit func(name, value []byte)) error {
	s := scanner{b: b}
	if len(b) == 0 || b[0] != '{' {
		return errors.New("it does not start with a JSON object")
	}
	if err := s.object(1, visit); err != nil {
		return fmt.Errorf("at byte %d: %w", s.i, err)
	}
	if s.i != len(b) {
		return fmt.Errorf("at byte %d: something follows the JSON object", s.i)
	}
	return nil
}

func (s *scanner) value(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it nests deeper than %d", maxDepth)
	}
	switch s.peek() {
	case '{':
		return s.object(depth, nil)
	case '[':
		return s.array(depth, nil)
	case '"':
		_, err := s.text()
		return err
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scanner) object(depth int, visit func(name, value []byte)) error {
	s.i++ // {
	if s.take('}') {
		return nil
	}
	var last []byte
	var escapes bool // in last
	for first := true; ; first = false {
		name, err := s.text()
		if err != nil {
			return err
		}
		if !first && !inOrder(last, name, escapes || s.escapes) {
			return fmt.Errorf("member %q does not come after %q", name, last)
		}
		last, escapes = name, s.escapes
		if !s.take(':') {
			return errors.New("a colon is due")
		}
		from := s.i
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if visit != nil {
			visit(name, s.b[from:s.i])
		}
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return errors.New("a comma or the object's end is due")
		}
	}
}

func (s *scanner) array(depth int, visit func(value []byte)) error {
	s.i++ // [
	if s.take(']') {
		return nil
	}
	for {
		from := s.i
		if err := s.value(depth + 1); err != nil {
			return err
		}
		if visit != nil {
			visit(s.b[from:s.i])
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errors.New("a comma or the list's end is due")
		}
	}
}

// text passes one string and returns it without its quotes, escapes as they are.
func (s *scanner) text() ([]byte, error) {
	if !s.take('"') {
		return nil, errors.New("a string is due")
	}
	b, from, i, ascii := s.b, s.i, s.i, true
	s.escapes = false
	for ; i < len(b); i++ {
		c := b[i]
		if plain[c] {
			continue
		}
		s.i = i
		switch {
		case c == '"':
			s.i++
			if !ascii && !utf8.Valid(b[from:i]) {
				return nil, errors.New("text is not valid UTF-8")
			}
			return b[from:i], nil
		case c < 0x20:
			return nil, errors.New("a control character is not escaped")
		case c >= 0x80:
			ascii = false
		default: // a backslash
			n := escapeLen(b[i:])
			if n == 0 {
				return nil, errors.New("an escape is not the canonical one")
			}
			i += n - 1
			s.escapes = true
		}
	}
	s.i = len(b)
	return nil, errors.New("a string does not end")
}

// plain has the characters that stand for themselves in a string.
var plain = func() (is [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		is[c] = c != '"' && c != '\\'
	}
	return is
}()

// escapeLen returns the length of the canonical escape that b starts with, or 0.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', 'b', 't', 'n', 'f', 'r':
		return 2
	case 'u':
		if len(b) < 6 || b[2] != '0' || b[3] != '0' || b[4] != '0' && b[4] != '1' {
			return 0
		}
		low := bytes.IndexByte([]byte("0123456789abcdef"), b[5])
		if low < 0 {
			return 0
		}
		switch int(b[4]-'0')<<4 | low {
		case '\b', '\t', '\n', '\f', '\r':
			return 0 // these have a short escape
		}
		return 6
	default:
		return 0
	}
}

func (s *scanner) number() error {
	from := s.i
	for s.i < len(s.b) && isNumeric(s.b[s.i]) {
		s.i++
	}
	literal := s.b[from:s.i]
	if len(literal) == 0 {
		return errors.New("a JSON value is due")
	}
	if isSmallInteger(literal) {
		return nil
	}
	again, _, err := gate.AppendNumber(nil, string(literal))
	if err != nil {
		return err
	}
	if !bytes.Equal(again, literal) {
		return fmt.Errorf("number %.40q is not in canonical form", literal)
	}
	return nil
}

func isNumeric(c byte) bool {
	return c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

func isSmallInteger(b []byte) bool {
	if len(b) > 15 || b[0] == '0' && len(b) > 1 {
		return false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.b[s.i:], []byte(w)) {
		return errors.New("a JSON value is due")
	}
	s.i += len(w)
	return nil
}

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.i >= len(s.b) {
		return false
	}
	s.i++
	return true
}

// inOrder reports whether member name a comes before b. escapes says that one of them has some.
func inOrder(a, b []byte, escapes bool) bool {
	if escapes {
		return gate.CompareNames(unquote(a), unquote(b)) < 0
	}
	return gate.CompareNames(a, b) < 0
}

// unquote returns the text of a string that the scanner has passed. raw is without its quotes.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw)
	}
	text, err := jsontext.AppendUnquote(nil, slices.Concat([]byte{'"'}, raw, []byte{'"'}))
	if err != nil {
		return ""
	}
	return string(text)
}

// textOf returns the text of a member of a canonical object; "" if it is missing or no string.
func textOf(object []byte, member string) string {
	var text string
	_ = scanObject(object, func(name, value []byte) {
		if string(name) == member {
			text, _ = textValue(value)
		}
	})
	return text
}

// textValue returns the text of a member's value, or false if the value is no string.
func textValue(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	return unquote(value[1 : len(value)-1]), true
}

// seqValue returns the record number that a member's value is, or 0.
func seqValue(value []byte) uint64 {
	n, err := strconv.ParseUint(string(value), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// decodeObject parses canonical JSON. Numbers stay as they are written.
func decodeObject(b []byte) (gate.Object, error) {
	if err := scanObject(b, nil); err != nil {
		return nil, err
	}
	return strict.Object(b, maxDepth)
}
