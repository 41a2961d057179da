package console

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/countersign/countersign/extproc/approval"
)

// maxBodyRows is how many values of a record are shown; `countersign evidence show` and the proof have all of them.
const maxBodyRows = 1000

// bodyRows are the values of a record's body, each in a row of its own with its whole path, as a card has those of an
// operation. What cannot be read as JSON is one row.
func bodyRows(body []byte) []approval.CardRow {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	var rows []approval.CardRow
	var before jsontext.Kind
	for len(rows) < maxBodyRows {
		token, err := d.ReadToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return []approval.CardRow{{Type: "text", Value: approval.Visible(string(body))}}
		}
		kind := token.Kind()
		empty := kind == '}' && before == '{' || kind == ']' && before == '['
		before = kind
		parent, n := d.StackIndex(d.StackDepth())
		name := parent == '{' && n%2 == 1
		if kind == '{' || kind == '[' || name || (kind == '}' || kind == ']') && !empty {
			continue
		}
		value, named := token.String(), kindNames[kind]
		if empty {
			value = map[jsontext.Kind]string{'}': "{}", ']': "[]"}[kind]
		}
		rows = append(rows, approval.CardRow{Path: approval.Visible(pathOf(d)), Type: named, Value: approval.Visible(value)})
	}
	return rows
}

var kindNames = map[jsontext.Kind]string{
	'"': "string", '0': "number", 't': "bool", 'f': "bool", 'n': "null", '}': "object", ']': "list",
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// pathOf is where the value is that was read last: names with dots between them, indexes and other names in brackets.
func pathOf(d *jsontext.Decoder) string {
	var b strings.Builder
	depth := 1
	for name := range d.StackPointer().Tokens() {
		parent, _ := d.StackIndex(depth)
		depth++
		switch {
		case parent == '[':
			b.WriteString("[" + name + "]")
		case !plainName.MatchString(name):
			b.WriteString("[" + strconv.Quote(name) + "]")
		case b.Len() > 0:
			b.WriteString("." + name)
		default:
			b.WriteString(name)
		}
	}
	return b.String()
}
