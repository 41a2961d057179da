package web

import (
	"bytes"
	"encoding/binary"
	"errors"
	"mime"
	"slices"
	"strings"
	"unicode"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/media"
)

// bodyKind is how a body is read.
type bodyKind int

const (
	asBytes   bodyKind = iota // any other Content-Type
	asJSON                    // JSON
	asLines                   // NDJSON: a JSON value on each line
	asRecords                 // a JSON text sequence
	asForm                    // application/x-www-form-urlencoded
	asParts                   // multipart of any kind
	asAny                     // no Content-Type
)

// classify decides from the header fields how the body is read.
func (i *Inspector) classify(h *heading) error {
	if i.opt.Stream {
		return nil
	}
	if err := i.setCoding(h.contentEncoding); err != nil {
		return err
	}
	if !h.hasContentType {
		i.kind = asAny
		return nil
	}
	name, params, err := mime.ParseMediaType(h.contentType)
	if err != nil {
		return unreadable("The request's Content-Type %q cannot be read: %v.", h.contentType, err)
	}
	switch kind := media.KindOf(name); {
	case isGRPCType(name):
		i.framed = true
	case kind == media.JSON:
		i.kind, i.plainJSON = asJSON, name == "application/json"
	case kind == media.Lines:
		i.kind = asLines
	case kind == media.Records:
		i.kind = asRecords
	case name == "application/x-www-form-urlencoded" || name == "application/x-url-encoded": // Werkzeug reads the second too
		i.kind = asForm
	case strings.HasPrefix(name, "multipart/"):
		i.kind, i.isForm = asParts, name == "multipart/form-data"
		if err := i.setBoundary(h.contentType, params); err != nil {
			return err
		}
	}
	return checkCharset(params["charset"], "The request's body")
}

func isGRPCType(name string) bool {
	return name == "application/grpc" || strings.HasPrefix(name, "application/grpc+") || strings.HasPrefix(name, "application/grpc-web")
}

// IsGRPC reports whether the Content-Type of a request is gRPC's. It also works for requests that are refused.
func IsGRPC(fields []Field) bool {
	return slices.ContainsFunc(fields, func(f Field) bool {
		name, _, _ := strings.Cut(f.Value, ";")
		return f.Name == "content-type" && isGRPCType(strings.ToLower(strings.TrimSpace(name)))
	})
}

func checkCharset(charset, what string) error {
	if charset != "" && !slices.Contains(charsets, strings.ToLower(charset)) {
		return unreadable("%s is in the charset %q. Send UTF-8.", what, charset)
	}
	return nil
}

// charsets are those that write ASCII, and so the syntax of JSON, as UTF-8 does. In others (UTF-16, UTF-7, EBCDIC) a body
// that does not look like JSON can be JSON.
var charsets = []string{"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "windows-1252"}

func (i *Inspector) readBody() (err error) {
	r := &i.request
	if len(i.body) == 0 {
		return nil
	}
	switch i.kind {
	case asForm:
		r.Form, err = i.pairs(string(i.body), "form")
	case asParts:
		err = i.multipart()
	case asAny:
		err = i.untyped()
	case asLines:
		r.Bodies, err = i.lines()
	case asRecords:
		r.Bodies, err = i.records()
	case asBytes, asJSON:
	}
	if err != nil {
		return err
	}
	if i.kind == asJSON || looksLikeJSON(i.body) && r.Multipart == nil && r.Bodies == "" && (!i.framed || !isGRPC(i.body)) {
		r.Body, err = i.json(i.body, "request's JSON body")
		r.JSON = err == nil
		if errors.Is(err, errSeveral) && i.mayBeLines() {
			i.values = 0
			r.Bodies, err = i.lines()
		}
	}
	return err
}

// untyped reads a body without a Content-Type as a form, since Rack takes that of a POST for one. Other servers look at how
// the body begins: readBody also reads it as JSON if it looks like JSON. A body that is no form is refused only for POST,
// since for other methods no server looks for a form's parameters there.
func (i *Inspector) untyped() (err error) {
	r := &i.request
	if looksLikeJSON(i.body) && !bytes.ContainsAny(i.body, "&;") {
		return nil // as a form it would be one pair, whose name is the JSON
	}
	r.Form, err = i.pairs(string(i.body), "form")
	var refused *Error
	switch {
	case !errors.As(err, &refused) || refused.Problem != gate.Unreadable:
		return err
	case r.Method == "POST":
		return unreadable("The request's body has no Content-Type, so that some servers read it as a form. %s Or say what the body is, with a Content-Type.", refused.Detail)
	default:
		r.Form = nil
		return nil
	}
}

// isGRPC reports whether b is whole frames of gRPC: a flag, a length, a message. The length of a short message can look
// like the beginning of JSON in UTF-32.
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

// looksLikeJSON reports whether a lenient reader could take b for a JSON object or array, in any Unicode encoding.
func looksLikeJSON(b []byte) bool {
	if bytes.HasPrefix(b, []byte("\xEF\xBB\xBF")) || bytes.HasPrefix(b, []byte("\xFF\xFE")) || bytes.HasPrefix(b, []byte("\xFE\xFF")) {
		return true
	}
	b = bytes.TrimLeftFunc(b, blank)
	for len(b) > 0 && (b[0] == 0xA0 || b[0] == 0x85) { // white space in ISO 8859-1
		b = bytes.TrimLeftFunc(b[1:], blank)
	}
	return len(b) > 0 && (b[0] == '{' || b[0] == '[')
}

// blank reports whether readers trim r off a text before they parse it: white space of any kind, control characters, and
// characters without width.
func blank(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.C, r) }
