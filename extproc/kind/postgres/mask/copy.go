package mask

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// copying is how the COPY data of an answer is written.
type copying struct {
	binary bool
	header bool // the first line has the columns' names; or, in binary, the beginning has still to come
	csv    bool
	ended  bool // in binary: nothing may follow

	delimiter, quote, escape byte
	null                     []byte

	value []byte // memory that is used again: the last value without its escapes
}

// copied are the options that are understood; what else there is says how rows are read, or is not known here.
var copied = []string{"format", "delimiter", "null", "header", "quote", "escape", "force_quote", "encoding"}

// copies reads how a COPY writes its data.
func (p *Plan) copies(a *statement.Analysis) error {
	said := a.Copy
	if said.File || said.Program {
		return refuse("Policy redacts what is copied, and on the server's own machine nothing redacts it, so the statement was refused. Use COPY … TO STDOUT, or SELECT.")
	}
	c := &copying{delimiter: '\t', null: []byte(`\N`)}
	switch said.Format {
	case "text", "":
	case "csv":
		c.csv, c.delimiter, c.null, c.quote = true, ',', nil, '"'
	case "binary":
		c.binary, c.header = true, true
	default:
		return refuse("Policy redacts what is copied, and COPY's format %.40q is not known here, so the statement was refused. Use text, csv or binary.", said.Format)
	}
	for name, value := range said.Options {
		switch {
		case !slices.Contains(copied, name):
			return refuse("Policy redacts what is copied, and COPY's option %.40q is not known here, so the statement was refused. Leave it out.", name)
		case name == "encoding" && !slices.Contains([]string{"utf8", "utf-8", "unicode"}, strings.ToLower(value)):
			return refuse("Policy redacts what is copied, in UTF8 only, so COPY with the encoding %.40q was refused.", value)
		case name == "delimiter" && len(value) != 1, name == "quote" && len(value) != 1, name == "escape" && len(value) != 1:
			return refuse("Policy redacts what is copied, and COPY's option %s has not one character, so the statement was refused.", name)
		}
	}
	c.options(said.Options)
	p.copy = c
	for i, out := range a.Output {
		p.typed(&p.columns[i], out.Type)
		p.columns[i].binary = c.binary
		if quoted, ok := said.Options["force_quote"]; ok {
			p.columns[i].quoted = quoted == "*" || slices.Contains(strings.Split(quoted, ","), out.Name)
		}
		if out.Type == 0 { // not known here: only where every column that it is of is text
			p.columns[i].text = out.Plain && !slices.ContainsFunc(out.Lineage, func(from statement.ColumnRef) bool { return !isText(p.catalog, columnType(p.catalog, from)) })
		}
	}
	return nil
}

func (c *copying) options(said map[string]string) {
	if v, ok := said["delimiter"]; ok {
		c.delimiter = v[0]
	}
	if v, ok := said["null"]; ok {
		c.null = []byte(v)
	}
	if v, ok := said["quote"]; ok {
		c.quote = v[0]
	}
	if c.escape = c.quote; said["escape"] != "" {
		c.escape = said["escape"][0]
	}
	if v, ok := said["header"]; ok && !c.binary {
		c.header = !slices.Contains([]string{"false", "off", "0"}, strings.ToLower(v))
	}
}

// columnType is the type of a column; 0 where it is not known.
func columnType(cat *statement.Catalog, c statement.ColumnRef) uint32 {
	if cat == nil {
		return 0
	}
	rel := cat.Relations[statement.Name{Schema: c.Schema, Name: c.Table}]
	if rel == nil {
		return 0
	}
	for _, a := range rel.Columns {
		if a.Name == c.Column {
			return a.Type
		}
	}
	return 0
}

// DescribeCopy takes the body of a CopyOutResponse, before the data.
func (p *Plan) DescribeCopy(body []byte) error {
	if p.copy == nil || len(body) != 3+2*len(p.columns) || (body[0] == 1) != p.copy.binary || int(binary.BigEndian.Uint16(body[1:])) != len(p.columns) {
		return errShape
	}
	p.described = true
	return nil
}

// CopyData appends the body of a CopyData message to b, without what is taken out. The server sends one row in each, a header as another, and
// what binary data begins with before the first row.
func (p *Plan) CopyData(b, body []byte) ([]byte, error) {
	if !p.described || p.copy == nil {
		return b, errShape
	}
	if p.copy.binary {
		return p.copyBinary(b, body)
	}
	line, ended := bytes.CutSuffix(body, []byte("\n"))
	if !ended {
		return b, errShape
	}
	if p.copy.header {
		p.copy.header = false
		return append(b, body...), nil
	}
	for i := range p.columns {
		if i > 0 {
			if len(line) == 0 || line[0] != p.copy.delimiter {
				return b, errShape
			}
			b, line = append(b, p.copy.delimiter), line[1:]
		}
		value, end, null := p.copy.next(line)
		if end < 0 {
			return b, errShape
		}
		b = p.copyValue(b, &p.columns[i], line[:end], value, null)
		line = line[end:]
	}
	if len(line) != 0 {
		return b, errShape
	}
	return append(b, '\n'), nil
}

// copyValue appends a value as COPY writes it. raw is how it stood there.
func (p *Plan) copyValue(b []byte, c *column, raw, value []byte, null bool) []byte {
	switch {
	case c.masked:
		p.count(c)
		text, ok := p.instead(c, value, null)
		if !ok {
			return append(b, p.copy.null...)
		}
		return p.copy.append(b, text, c.quoted)
	case c.shape == nil || null:
		return append(b, raw...)
	}
	switch out, is := p.look(c.shape, false, value); is {
	case same:
		return append(b, raw...)
	case changed:
		return p.copy.append(b, out, c.quoted)
	default:
		return append(b, p.copy.null...)
	}
}

// signature is what COPY's binary data begins with; flags and the size of an extension follow.
const signature = "PGCOPY\n\xff\r\n\x00"

func (p *Plan) copyBinary(b, body []byte) ([]byte, error) {
	if p.copy.ended {
		return b, errShape
	}
	if p.copy.header {
		const most = len(signature) + 8
		if len(body) < most || string(body[:len(signature)]) != signature || binary.BigEndian.Uint64(body[len(signature):]) != 0 {
			return b, errShape
		}
		b, body, p.copy.header = append(b, body[:most]...), body[most:], false
		if len(body) == 0 {
			return b, nil
		}
	}
	if len(body) == 2 && body[0] == 0xFF && body[1] == 0xFF {
		p.copy.ended = true
		return append(b, body...), nil
	}
	return p.tuple(b, body)
}
