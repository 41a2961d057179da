// Package strict reads JSON text as a tree, in the one way in which it can be understood. What two readers could take for two
// things is an error: a name twice in an object, text that is not UTF-8, anything behind the value.
//
// Three readers stand apart because they make no tree, which would cost them most of their time and memory: package web writes a
// request's body in canonical form while it reads, package evidence checks that a record is in canonical form, and package policy
// makes terms of Rego of canonical text.
package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/countersign/countersign/extproc/gate"
)

// An Error says where text is wrong, and why. A [jsontext.SyntacticError] in it can quote from the text.
type Error struct {
	Offset int64
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap is for errors.As.
func (e *Error) Unwrap() error { return e.Err }

// Unbounded is the depth for text that this program made. The parser has a bound of its own, of 10,000.
const Unbounded = 1 << 20

// A Reader reads values that are nested at most Depth deep: nil, bool, string, [json.Number] as it is written, []any and
// [gate.Object].
type Reader struct {
	Depth int
	Maps  bool // objects are map[string]any
}

// ErrMore says that something follows the value.
var ErrMore = errors.New("there is more after the first JSON value")

// Read reads exactly one value. What is wrong with text is an [Error].
func (r Reader) Read(text []byte) (any, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(text)) // it reads a buffer where that is, and copies from any other reader
	v, err := r.value(d)
	if err == nil {
		if _, err = d.ReadToken(); errors.Is(err, io.EOF) {
			return v, nil
		} else if err == nil {
			err = ErrMore
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return nil, &Error{syntactic.ByteOffset, err}
	}
	return nil, &Error{d.InputOffset(), err}
}

// Object reads exactly one object. depth is how deep values in it can be nested.
func Object(text []byte, depth int) (gate.Object, error) {
	v, err := Reader{Depth: depth}.Read(text)
	o, ok := v.(gate.Object)
	if err == nil && !ok {
		err = errors.New("it is not a JSON object")
	}
	return o, err
}

func (r Reader) value(d *jsontext.Decoder) (any, error) {
	if d.StackDepth() > r.Depth {
		return nil, fmt.Errorf("it is nested deeper than %d levels", r.Depth)
	}
	token, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return token.Bool(), nil
	case '"':
		return token.String(), nil
	case '0':
		return json.Number(token.String()), nil
	case '[':
		return r.list(d)
	default:
		return r.object(d)
	}
}

func (r Reader) list(d *jsontext.Decoder) (any, error) {
	list := []any{}
	for d.PeekKind() != ']' {
		v, err := r.value(d)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.ReadToken()
	return list, err
}

func (r Reader) object(d *jsontext.Decoder) (any, error) {
	var members []gate.Member
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		m := gate.Member{Name: name.String()} // before the next read: a token is good until then
		if m.Value, err = r.value(d); err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	if !r.Maps {
		return gate.MakeObject(members...)
	}
	object := make(map[string]any, len(members))
	for _, m := range members {
		object[m.Name] = m.Value
	}
	return object, nil
}
