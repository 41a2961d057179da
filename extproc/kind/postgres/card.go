package postgres

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// What people who are asked about a statement see beside its values: its text, laid out, with the values of parameters where they
// stand, and what it does in words. Both are made of what was judged, as people may see it, and nothing else.

// laidOut is the text of a statement for people; nil where it cannot be told apart for certain. The text itself is on the card too.
func laidOut(detail gate.Object) []kind.Code {
	text, _ := detail.Get("text")
	sql, _ := text.(string)
	tokens, err := statement.Layout(sql)
	if err != nil {
		return nil
	}
	given, _ := detail.Get("parameters")
	values, _ := given.([]any)
	var list []kind.Code
	for _, t := range tokens {
		list = append(list, kind.Code{Class: t.Class, Text: t.Text, Space: t.Space, Line: t.Line, Depth: t.Depth})
		if n := t.Number(); n > 0 && n <= len(values) {
			list = append(list, kind.Code{Class: kind.CodeValue, Text: valueOf(values[n-1])})
		}
	}
	return list
}

// valueOf is a parameter's type and value. Text is in quotes, so that no value looks like NULL, or as if it ended.
func valueOf(parameter any) string {
	p, _ := parameter.(gate.Object)
	name, _ := p.Get("type")
	value, read := p.Get("value")
	said := "bytes that cannot be read"
	switch v := value.(type) {
	case string:
		quoted, err := json.Marshal(v)
		if err != nil {
			quoted = nil
		}
		said = string(quoted)
	case nil:
		if read {
			said = "NULL"
		}
	default:
		said = fmt.Sprint(v)
	}
	return strings.TrimSpace(fmt.Sprint(name, " ", said))
}

// inWords says what a statement does.
func inWords(detail gate.Object) []string {
	text := func(name string) string {
		v, _ := detail.Get(name)
		s, _ := v.(string)
		return s
	}
	holds := func(name string) bool {
		v, _ := detail.Get(name)
		b, _ := v.(bool)
		return b
	}
	var words []string
	say := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	verb := map[string]string{"insert": "adds rows to", "update": "changes rows of", "delete": "deletes rows of", "merge": "adds, changes or deletes rows of", "ddl": "changes the definition of, or removes,"}[text("kind")]
	if verb == "" {
		verb = "writes to"
	}
	if holds("explain") {
		say("It explains a statement, or runs it to explain it.")
	}
	for _, t := range relations(detail, "writes") {
		say("It %s %s.", verb, t)
	}
	if kind := text("kind"); kind == "update" || kind == "delete" {
		if holds("has_where") {
			say("Which rows, a WHERE chooses that names a column.")
		} else {
			say("No WHERE that names a column chooses which rows: it can be all of them.")
		}
	}
	for _, t := range relations(detail, "reads") {
		say("It reads %s.", t)
	}
	if holds("opaque") {
		say("What it does cannot be known for certain: it calls code that cannot be read here.")
	}
	if n, _ := detail.Get("of"); fmt.Sprint(n) != "1" && n != nil {
		i, _ := detail.Get("index")
		say("It is one of %v statements of a text, number %v from 0.", n, i)
	}
	say("It runs as the role %s in the database %s.", nameOf(text("role")), nameOf(text("database")))
	path, _ := detail.Get("search_path")
	say("Names without a schema are looked up in %s.", listed(path, "no schema"))
	switch {
	case text("transaction") == "idle":
		say("It is a transaction of its own.")
	case text("earlier") == "":
		say("It is part of a transaction that is %s.", text("transaction"))
	default:
		say("It is part of a transaction that is %s, and has changed something before.", text("transaction"))
	}
	return words
}

// relations are those of a member, each with its columns.
func relations(detail gate.Object, member string) (list []string) {
	v, _ := detail.Get(member)
	all, _ := v.([]any)
	for _, one := range all {
		t, _ := one.(gate.Object)
		schema, _ := t.Get("schema")
		table, _ := t.Get("table")
		columns, _ := t.Get("columns")
		name := nameOf(fmt.Sprint(schema)) + "." + nameOf(fmt.Sprint(table))
		list = append(list, name+" ("+listed(columns, "no column")+")")
	}
	return list
}

func listed(v any, none string) string {
	var names []string
	switch list := v.(type) {
	case []string:
		names = list
	case []any:
		for _, one := range list {
			names = append(names, fmt.Sprint(one))
		}
	}
	if len(names) == 0 {
		return none
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = nameOf(name)
	}
	return strings.Join(quoted, ", ")
}

var plain = regexp.MustCompile(`^[a-z_][a-z0-9_$]*$`)

// nameOf is a name as SQL has it: in quotes where it could be taken for words of ours.
func nameOf(name string) string {
	if plain.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
