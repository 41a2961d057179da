// Package statement says what a PostgreSQL statement does: how strongly it acts, which relations and columns it reads and writes,
// which functions it calls, of which columns each column of its answer is made, and which columns it uses otherwise. It is pure:
// text, the session's [State] and the target's [Catalog] in, an [Analysis] out.
//
// The text is read by PostgreSQL's own parser, so that what is a comment, a string or a name is never ours to guess. What
// the names mean is found here, by PostgreSQL's rules: search_path with the implicit pg_catalog and the temporary schema before
// it, views by their definitions, parents with all that inherits from them, operators and casts with the functions behind them.
//
// The agent chooses the text, so every doubt counts against it. Each node of the tree that could act or name something has to have been
// understood: where one was not, the whole statement is [Unknown]. A function is harmless only where a shipped list has it (it
// must also be PostgreSQL's own, not one of the same name) or the operator says so. What calls a body that this package cannot
// read is opaque and Unknown as well: such a call could do anything.
//
// What the schema does by itself when rows are written (triggers, rules, defaults, checks, foreign keys) is named, and makes a statement
// opaque where it has a body, but no stronger than it is: it is not the agent who chose it.
//
// A statement is analyzed once for each role and search_path, and the result kept with its tree; 0.3 µs when it is there, some 0.1 ms
// when it is not, beside the parsing. The first [Parse] of a process compiles the parser, which takes a second or two: whoever serves sessions
// should have parsed something before.
//
// What is left to chance, and cannot be had from outside the server: the catalog may be as old as the last look at it, and
// a function on the list may be slow. The server's privileges, and read-only transactions, are the nets below. Not followed: bodies of functions
// in SQL (they are opaque), types of the temporary schema, and what ALTER TABLE changes for later statements of the same text.
package statement

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// Statement is one statement of a text. Its zero value does nothing that can be understood.
type Statement struct {
	Text  string // as sent, without what stands between statements
	Index int    // from 0
	Of    int    // how many the text has

	// Parameters are the types of $1, $2, … that the client gave in Parse; 0 where it left one to the server.
	Parameters []uint32

	source string // of one that PREPARE makes: the text of that

	from int // where Text begins in what was parsed, in bytes
	lead int // and in characters

	node   *tree.Node
	memo   *memo // of its analyses; shared by its copies
	shared bool  // node and memo are those of another of the same shape
}

// maxDepth is how deep a statement may be nested, in nodes of its tree. PostgreSQL's own limit is its stack, 2 MiB.
const maxDepth = 1000

// A SyntaxError is what PostgreSQL's parser says of a text, or what makes a text one that is not given to it.
type SyntaxError struct {
	Code     string // a SQLSTATE
	Message  string
	Position int // in characters from 1; 0 where it has none
}

func (e *SyntaxError) Error() string { return e.Message }

// Parse splits a text into its statements. An empty text, or one of comments, has none: PostgreSQL answers it with EmptyQueryResponse,
// and [Empty] is what it does. The error, a *SyntaxError, means that nothing of the text may run.
//
// Where standardConformingStrings is off, a backslash in '…' is an escape, which the parser is not told of: then a text
// with a backslash in it is an error.
func Parse(text string, standardConformingStrings bool) ([]Statement, error) {
	key := parseKey{text, standardConformingStrings}
	if list, ok := parsed.get(key); ok {
		return list, nil
	}
	form, places := shape(text)
	if form != "" {
		if x, ok := shapes.get(form); ok && x != nil {
			return []Statement{x.like(text)}, nil
		}
	}
	list, err := parse(text, standardConformingStrings)
	if err != nil {
		return nil, err
	}
	if form != "" {
		if x := shapedBy(text, places, list); x != nil {
			shapes.put(form, x, len(form))
		}
	}
	parsed.put(key, list, len(text))
	return list, nil
}

// Empty is the statement of a text that has none.
func Empty(text string) Statement { return Statement{Text: text, Of: 1, node: &tree.Node{}} }

func parse(text string, standardConformingStrings bool) (list []Statement, err error) {
	switch {
	case !utf8.ValidString(text):
		return nil, &SyntaxError{Code: "22021", Message: "the text is not UTF-8"}
	case strings.IndexByte(text, 0) >= 0:
		return nil, &SyntaxError{Code: "22021", Message: "the text has a NUL in it"}
	case !standardConformingStrings && strings.IndexByte(text, '\\') >= 0:
		return nil, &SyntaxError{Code: "0A000", Message: "the text has a backslash, and standard_conforming_strings is off"}
	}
	result, err := parseTree(text)
	if err != nil {
		return nil, said(err)
	}
	for i, raw := range result.GetStmts() {
		from, n := int(raw.GetStmtLocation()), int(raw.GetStmtLen())
		if n == 0 {
			n = len(text) - from
		}
		if from < 0 || n < 0 || from+n > len(text) {
			return nil, &SyntaxError{Code: "0A000", Message: "the parser's places are outside the text"}
		}
		one := text[from : from+n]
		from += len(one) - len(strings.TrimLeftFunc(one, unicode.IsSpace))
		list = append(list, Statement{Text: strings.TrimSpace(one), from: from, lead: utf8.RuneCountInString(text[:from]), Index: i, Of: len(result.GetStmts()), node: raw.GetStmt(), memo: &memo{}})
	}
	return list, nil
}

// Fingerprint is pg_query's: equal for statements that differ in literals, case and space only.
func (s Statement) Fingerprint() (string, error) {
	if s.memo == nil {
		return fingerprint(s.Text)
	}
	return s.memo.fingerprint.get(func() (string, error) { return fingerprint(s.Text) })
}

// position is a place of the tree as PostgreSQL tells it: in characters of the whole text, from 1.
func (s Statement) position(location int32) int {
	i := int(location) - s.from
	if location < 0 || i < 0 || i > len(s.Text) {
		return 0
	}
	return s.lead + utf8.RuneCountInString(s.Text[:i]) + 1
}

var errNothing = errors.New("the statement was not parsed")
