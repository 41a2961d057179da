package web

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/go-json-experiment/json/jsontext"
)

// bodyKind is how a body is read.
type bodyKind int

const (
	asBytes bodyKind = iota // says that it is something else, or nothing
	asJSON                  // says that it is JSON
	asForm                  // application/x-www-form-urlencoded
)

// Bounds on JSON: deeper, or with numbers that take more than this to hold, is refused. Policy and targets compute with
// numbers, and one like 1e999999999 costs them gigabytes.
const (
	maxDepth        = 200
	maxNumberLength = 100
	maxExponent     = 400
)

func (i *Inspector) classify(h *heading) error {
	if i.opt.Stream {
		return nil
	}
	if e := h.contentEncoding; e != "" && !strings.EqualFold(strings.TrimSpace(e), "identity") {
		return unreadable("The request's body is encoded (Content-Encoding: %s) and cannot be read. Send it without Content-Encoding.", e)
	}
	if !h.hasContentType {
		return nil
	}
	media, params, err := mime.ParseMediaType(h.contentType)
	if err != nil {
		return unreadable("The request's Content-Type %q cannot be read: %v.", h.contentType, err)
	}
	switch {
	case media == "application/grpc" || strings.HasPrefix(media, "application/grpc+") || strings.HasPrefix(media, "application/grpc-web"):
		i.framed = true
	case media == "application/json" || strings.HasSuffix(media, "+json") || media == "text/json":
		i.kind = asJSON
	case media == "application/x-www-form-urlencoded":
		i.kind = asForm
	}
	if charset := params["charset"]; charset != "" && !slices.Contains(charsets, strings.ToLower(charset)) {
		return unreadable("The request's body is in the charset %q. Send UTF-8.", charset)
	}
	return nil
}

// charsets agree with UTF-8 on ASCII, and with it on what is JSON syntax. In others (UTF-16, UTF-7, EBCDIC) a body that
// does not look like JSON can be JSON.
var charsets = []string{"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"}

func (i *Inspector) readBody() (err error) {
	r := &i.request
	if len(i.body) == 0 {
		return nil
	}
	if i.kind == asForm {
		if r.Form, err = i.pairs(string(i.body), "form"); err != nil {
			return err
		}
	}
	if i.kind == asJSON || looksLikeJSON(i.body) && (!i.framed || !isGRPC(i.body)) {
		r.Body, err = parseJSON(i.body)
		r.JSON = err == nil
	}
	return err
}

// isGRPC is true for whole frames of gRPC: a flag, a length, a message. The length of a short message can look like the
// beginning of JSON in UTF-32.
func isGRPC(b []byte) bool {
	for len(b) >= 5 && b[0] <= 1 {
		n := uint64(binary.BigEndian.Uint32(b[1:5]))
		if n > uint64(len(b)-5) {
			return false
		}
		b = b[5+n:]
	}
	return len(b) == 0
}

// looksLikeJSON is true for a body that a lenient reader could take for a JSON object or array, in any Unicode encoding.
func looksLikeJSON(b []byte) bool {
	if bytes.HasPrefix(b, []byte("\xEF\xBB\xBF")) || bytes.HasPrefix(b, []byte("\xFF\xFE")) || bytes.HasPrefix(b, []byte("\xFE\xFF")) {
		return true
	}
	b = bytes.TrimLeftFunc(b, blank)
	for len(b) > 0 && (b[0] == 0xA0 || b[0] == 0x85) { // the same in ISO 8859-1
		b = bytes.TrimLeftFunc(b[1:], blank)
	}
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

// blank is true for what readers trim off a text before they parse it: white space of any kind, control characters, and
// what has no width.
func blank(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.C, r) }

// ParseJSON reads exactly one JSON value as a request's body is read: as nil, bool, string, json.Number, []any and
// gate.Object. Its error is an *Error.
func ParseJSON(b []byte) (any, error) { return parseJSON(b) }

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
