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
	asBytes   bodyKind = iota // says that it is something else
	asJSON                    // says that it is JSON
	asLines                   // says that it is JSON values, one a line
	asRecords                 // says that it is a JSON text sequence
	asForm                    // application/x-www-form-urlencoded
	asParts                   // multipart of any kind
	asAny                     // says nothing
)

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

// IsGRPC reports whether a request is a call of gRPC by its Content-Type, whatever else is wrong with it.
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

// charsets agree with UTF-8 on ASCII, and with it on what is JSON syntax. In others (UTF-16, UTF-7, EBCDIC) a body that
// does not look like JSON can be JSON.
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

// untyped reads a body without a Content-Type. Rack takes that of a POST for a form, others look at what it begins with, so
// it is read as a form where it has pairs, and beside that as JSON where it looks like it. No server looks for
// parameters in one of another method that is no form.
func (i *Inspector) untyped() (err error) {
	r := &i.request
	if looksLikeJSON(i.body) && !bytes.ContainsAny(i.body, "&;") {
		return nil // at most one pair, whose name is JSON
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
