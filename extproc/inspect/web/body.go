package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/go-json-experiment/json/jsontext"
)

// bodyKind is how a body is read.
type bodyKind int

const (
	noBody  bodyKind = iota // there is none until a byte comes
	asJSON                  // says that it is JSON
	asForm                  // application/x-www-form-urlencoded
	asBytes                 // says that it is something else, or nothing
)

// Bounds on JSON: deeper, or with numbers that take more than this to hold, is refused. Policy and targets compute with
// numbers, and one like 1e999999999 costs them gigabytes.
const (
	maxDepth        = 200
	maxNumberLength = 100
	maxExponent     = 400
)

func (i *Inspector) classify(contentType, contentEncoding []string) error {
	for _, e := range contentEncoding {
		if !strings.EqualFold(strings.TrimSpace(e), "identity") && !i.opt.Stream {
			return unreadable("The request's body is encoded (Content-Encoding: %s) and cannot be read. Send it without Content-Encoding.", e)
		}
	}
	i.kind = asBytes
	if len(contentType) == 0 || i.opt.Stream {
		return nil
	}
	if len(contentType) > 1 {
		return unreadable("The request has more than one Content-Type. Send one.")
	}
	media, params, err := mime.ParseMediaType(contentType[0])
	if err != nil {
		return unreadable("The request's Content-Type %q cannot be read: %v.", contentType[0], err)
	}
	switch {
	case media == "application/json" || strings.HasSuffix(media, "+json") || media == "text/json":
		i.kind = asJSON
	case media == "application/x-www-form-urlencoded":
		i.kind = asForm
	}
	if charset := params["charset"]; charset != "" && i.kind != asBytes && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return unreadable("The request's body is in the charset %q. Send UTF-8.", charset)
	}
	return nil
}

func (i *Inspector) readBody() (err error) {
	r := &i.request
	switch {
	case len(i.body) == 0:
		return nil
	case i.kind == asForm:
		r.Form, err = i.pairs(string(i.body), "form")
		return err
	case i.kind == asJSON || looksLikeJSON(i.body):
		r.Body, err = parseJSON(i.body)
		return err
	}
	return nil
}

// looksLikeJSON is true for a body that a lenient reader could take for a JSON object or array, in any Unicode encoding.
func looksLikeJSON(b []byte) bool {
	if bytes.HasPrefix(b, []byte("\xEF\xBB\xBF")) || bytes.HasPrefix(b, []byte("\xFF\xFE")) || bytes.HasPrefix(b, []byte("\xFE\xFF")) {
		return true
	}
	b = bytes.TrimLeft(b, " \t\r\n\v\f\x00")
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

// parseJSON reads exactly one JSON value (RFC 8259, as strict as RFC 7493 on names and text).
func parseJSON(b []byte) (any, error) {
	if bytes.HasPrefix(b, []byte("\xEF\xBB\xBF")) {
		return nil, unreadable("The request's JSON body begins with a byte order mark. Leave it out.")
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(b))
	v, err := readValue(dec)
	if err == nil {
		if _, err = dec.ReadToken(); errors.Is(err, io.EOF) {
			return v, nil
		}
		if err == nil {
			return nil, unreadable("The request's body has more than one JSON value.")
		}
	}
	var refused *Error
	if errors.As(err, &refused) {
		return nil, refused
	}
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		err = syntactic.Err
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return nil, unreadable("The request's JSON body has an object with the same name twice, and servers differ in which one they read. Send each name once.")
		}
		return nil, unreadable("The request's body is not valid JSON at byte %d: %v. Send valid JSON in UTF-8.", syntactic.ByteOffset, err)
	}
	return nil, unreadable("The request's body is not valid JSON: %v.", err)
}

func readValue(dec *jsontext.Decoder) (any, error) {
	if dec.StackDepth() > maxDepth {
		return nil, unreadable("The request's JSON body is nested more than %d deep.", maxDepth)
	}
	t, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return t.Bool(), nil
	case '"':
		return t.String(), nil
	case '0':
		return number(t.String())
	case '[':
		list := []any{}
		for dec.PeekKind() != ']' {
			v, err := readValue(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.ReadToken()
		return list, err
	default:
		return readObject(dec)
	}
}

func readObject(dec *jsontext.Decoder) (any, error) {
	var members []gate.Member
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		text := name.String()
		v, err := readValue(dec)
		if err != nil {
			return nil, err
		}
		members = append(members, gate.Member{Name: text, Value: v})
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	return gate.MakeObject(members...)
}

func number(literal string) (any, error) {
	if len(literal) > maxNumberLength {
		return nil, unreadable("The request's JSON body has a number of more than %d characters.", maxNumberLength)
	}
	if e := strings.IndexAny(literal, "eE"); e >= 0 {
		if n, err := strconv.Atoi(literal[e+1:]); err != nil || n > maxExponent || n < -maxExponent {
			return nil, unreadable("The request's JSON body has a number with an exponent beyond ±%d.", maxExponent)
		}
	}
	return json.Number(literal), nil
}
