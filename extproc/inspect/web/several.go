package web

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// A body of several JSON values is read if its type says so, or if it is application/json and goes to a path at which
// Elasticsearch and OpenSearch read lines of JSON. At other paths a server may read only the first value. A server that reads
// line by line and one that reads value after value must find the same, so each value has a line of its own and no line is
// empty.

// mayBeLines reports whether the body is application/json and its path one at which Elasticsearch reads lines of JSON.
func (i *Inspector) mayBeLines() bool {
	return i.plainJSON && slices.ContainsFunc([]string{"/_bulk", "/_msearch", "/_msearch/template"}, func(end string) bool {
		return strings.HasSuffix(i.request.Path, end)
	})
}

// lines reads a body of a value on each line.
func (i *Inspector) lines() (gate.Raw, error) {
	return i.several(bytes.TrimSuffix(i.body, []byte("\n")), "\n", func(line []byte) ([]byte, error) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			return nil, unreadable("The request's body has an empty line, which some servers pass over and others do not. Send a JSON value on each line.")
		case bytes.IndexByte(line, '\r') >= 0:
			return nil, unreadable("The request's body has a carriage return within a line, at which some servers end it. Leave it out.")
		}
		return line, nil
	})
}

// records reads a JSON text sequence (RFC 7464).
func (i *Inspector) records() (gate.Raw, error) {
	body, found := bytes.CutPrefix(i.body, []byte("\x1e"))
	if !found {
		return "", unreadable("The request's JSON text sequence does not begin with a record separator (RFC 7464).")
	}
	return i.several(body, "\x1e", func(record []byte) ([]byte, error) {
		if !bytes.HasSuffix(record, []byte("\n")) {
			return nil, unreadable("The request's JSON text sequence has a record that does not end with a newline (RFC 7464), as if it had been cut off.")
		}
		return record, nil
	})
}

// several makes one list of the values in body. value gets the text between two separators, and returns the JSON in it.
func (i *Inspector) several(body []byte, separator string, value func([]byte) ([]byte, error)) (gate.Raw, error) {
	if err := i.fitsJSON(body, "request's JSON body"); err != nil {
		return "", err
	}
	r := i.newReader(len(body)+2, "value")
	r.out = append(r.out, '[')
	n := 0
	for part := range bytes.SplitSeq(body, []byte(separator)) {
		if n++; n > 1 {
			r.out = append(r.out, ',')
		}
		text, err := value(part)
		if err == nil {
			err = r.text(text)
		}
		var refused *Error
		if errors.As(err, &refused) {
			return "", &Error{refused.Problem, fmt.Sprintf("Value %d of the request's body: %s", n, refused.Detail)}
		}
	}
	return gate.Raw(append(r.out, ']')), nil
}
