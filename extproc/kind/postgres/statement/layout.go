package statement

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// Token is a part of a statement as it is laid out for people. Line says that a line begins before it, and Depth how far that is indented.
type Token struct {
	Class string // what it is: see the constants
	Text  string // as it was sent
	Space bool   // something stood between it and the one before: white space, which says nothing
	Line  bool
	Depth int
}

// The classes of tokens.
const (
	Keyword   = "keyword"
	Named     = "name"
	Literal   = "literal"
	Comment   = "comment"
	Parameter = "parameter" // $1
	Symbol    = "operator"
)

// Number is which parameter a token stands for: 1 of $1; 0 where it stands for none.
func (t Token) Number() int {
	if t.Class != Parameter {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimPrefix(t.Text, "$"))
	if err != nil {
		return 0
	}
	return n
}

// errGap says that the parser's tokens do not make up the text.
var errGap = errors.New("the tokens are not all of the text")

// clauses begin a line.
var clauses = []tree.Token{
	tree.Token_SELECT, tree.Token_FROM, tree.Token_WHERE, tree.Token_SET, tree.Token_VALUES, tree.Token_GROUP_P, tree.Token_ORDER, tree.Token_HAVING,
	tree.Token_LIMIT, tree.Token_RETURNING, tree.Token_UNION, tree.Token_INTERSECT, tree.Token_EXCEPT, tree.Token_INSERT, tree.Token_UPDATE,
	tree.Token_DELETE_P, tree.Token_WITH, tree.Token_USING, tree.Token_WINDOW, tree.Token_WHEN,
}

// joins begin a line, the first of several.
var joins = []tree.Token{tree.Token_LEFT, tree.Token_RIGHT, tree.Token_FULL, tree.Token_INNER_P, tree.Token_CROSS, tree.Token_NATURAL, tree.Token_JOIN}

// Layout is a text in its tokens, comments among them, with a line for each clause. It leaves nothing out but white space. A comment
// has a line of its own, so that nothing in one stands beside what runs.
func Layout(text string) ([]Token, error) {
	scan, err := scanned(text)
	if err != nil {
		return nil, err
	}
	var list []Token
	queries := []bool{true} // of each parenthesis that is open, whether it is of a query
	end, last := 0, tree.Token(0)
	for _, t := range scan.GetTokens() {
		from, to := int(t.GetStart()), int(t.GetEnd())
		if from < end || to <= from || to > len(text) || strings.TrimSpace(text[end:from]) != "" {
			return nil, errGap
		}
		one := Token{Class: class(t), Text: text[from:to], Space: from > end}
		kind := t.GetToken()
		inQuery := queries[len(queries)-1]
		switch {
		case kind == tree.Token_ASCII_41 && len(queries) > 1:
			one.Line = inQuery
			queries = queries[:len(queries)-1]
		case last == tree.Token_ASCII_40 && slices.Contains([]tree.Token{tree.Token_SELECT, tree.Token_WITH, tree.Token_INSERT, tree.Token_UPDATE, tree.Token_DELETE_P}, kind):
			queries[len(queries)-1], one.Line = true, true
		case inQuery:
			one.Line = slices.Contains(clauses, kind) || slices.Contains(joins, kind) && !slices.Contains(joins, last)
		}
		one.Line = len(list) > 0 && (one.Line || one.Class == Comment || list[len(list)-1].Class == Comment)
		if one.Line {
			for _, query := range queries[1:] {
				if query {
					one.Depth++
				}
			}
		}
		if kind == tree.Token_ASCII_40 {
			queries = append(queries, false)
		}
		if one.Class != Comment {
			last = kind
		}
		list, end = append(list, one), to
	}
	if strings.TrimSpace(text[end:]) != "" {
		return nil, errGap
	}
	return list, nil
}

// classes are those of tokens that are no keywords.
var classes = map[tree.Token]string{
	tree.Token_SQL_COMMENT: Comment, tree.Token_C_COMMENT: Comment, tree.Token_PARAM: Parameter, tree.Token_IDENT: Named, tree.Token_UIDENT: Named,
	tree.Token_SCONST: Literal, tree.Token_USCONST: Literal, tree.Token_BCONST: Literal, tree.Token_XCONST: Literal, tree.Token_FCONST: Literal, tree.Token_ICONST: Literal,
}

func class(t *tree.ScanToken) string {
	if class, ok := classes[t.GetToken()]; ok {
		return class
	}
	switch t.GetKeywordKind() {
	case tree.KeywordKind_NO_KEYWORD:
		return Symbol
	case tree.KeywordKind_UNRESERVED_KEYWORD:
		if slices.Contains(clauses, t.GetToken()) || slices.Contains(joins, t.GetToken()) {
			return Keyword
		}
		return Named
	default:
		return Keyword
	}
}
