package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/coding"
)

// setCoding reads the Content-Encoding of a body. It takes one coding by its usual name in lower case: servers differ on old
// names, on capitals and on lists.
func (i *Inspector) setCoding(encoding string) error {
	if e := strings.TrimSpace(encoding); e == "" || strings.EqualFold(e, "identity") {
		return nil
	}
	if i.coding = coding.Of(encoding); i.coding == coding.None {
		return unreadable("The request's body is encoded (Content-Encoding: %.40s) in a way that servers read differently, or that cannot be read here. Send gzip, deflate, br or zstd, one and in lower case, or send it without Content-Encoding.", encoding)
	}
	return nil
}

// Decoding estimates the most bytes of memory that [Inspector.Decode] takes; 0 if it has nothing to do.
func (i *Inspector) Decoding() int64 {
	if i.coding == coding.None || len(i.body) == 0 || i.sent != nil {
		return 0
	}
	sent := int64(len(i.body))
	return unjudged(sent+min(coding.Most(sent), i.opt.MaxBody)) + coding.Memory(i.coding)
}

// Decode undoes the coding of the whole body. The decoded body is judged; the body as it came is sent on. Request calls
// Decode if nobody has.
func (i *Inspector) Decode() error {
	if i.err == nil && i.Decoding() > 0 {
		i.err = i.decode()
	}
	return i.err
}

func (i *Inspector) decode() error {
	body, err := coding.Whole(i.coding, i.body, i.opt.MaxBody)
	if refused, ok := errors.AsType[*coding.Error](err); ok && refused.Long {
		return &Error{gate.TooLarge, fmt.Sprintf("The request's body is larger than the %d bytes that this resource accepts, once its %s is undone. Send less at a time.", i.opt.MaxBody, i.coding)}
	} else if err != nil {
		return unreadable("The request's body %v. Send it whole, in one piece of %s, or without Content-Encoding.", err, i.coding)
	}
	if what := i.readableAsSent(); what != "" {
		return unreadable("The request's body has, as it is sent, %s, which servers that do not look at Content-Encoding would read. Send it without Content-Encoding.", what)
	}
	i.sent, i.body = i.body, body
	i.weight = i.weigh() + unjudged(int64(len(i.sent)))
	sum := sha256.Sum256(body)
	i.request.DecodedSHA256, i.request.DecodedBytes = hex.EncodeToString(sum[:]), int64(len(body))
	return nil
}

// readableAsSent says what a server that ignores Content-Encoding would find in the compressed bytes, or "" for nothing. Many
// servers do ignore it, and whoever chooses how to compress can write a text into the result that is not in the body.
func (i *Inspector) readableAsSent() string {
	if at := bytes.IndexAny(i.body, "{["); at >= 0 && looksLikeJSON(i.body) && json.NewDecoder(bytes.NewReader(i.body[at:])).Decode(new(json.RawMessage)) == nil {
		return "JSON at its beginning"
	}
	for line := range bytes.FieldsFuncSeq(i.body, func(c rune) bool { return c == '\n' || c == '\r' || c == 0x1E }) {
		if looksLikeJSON(line) && json.Valid(bytes.TrimFunc(line, blank)) {
			return "a line of JSON"
		}
	}
	switch i.kind {
	case asParts:
		if bytes.Contains(i.body, []byte("--"+i.boundary)) {
			return "its boundary"
		}
	case asForm, asAny:
		for pair := range bytes.FieldsFuncSeq(i.body, func(c rune) bool { return c == '&' || c == ';' }) {
			if name, _, found := bytes.Cut(pair, []byte("=")); found && len(name) > 0 && !bytes.ContainsFunc(name, func(c rune) bool { return c < '!' || c > '~' }) {
				return "a parameter of a form"
			}
		}
	case asBytes, asJSON, asLines, asRecords:
	}
	return ""
}
