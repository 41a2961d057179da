package statement

import (
	"fmt"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// Normalized is the text with ? in the place of each literal, and without comments and needless space. It is what may be
// recorded: a password in CREATE ROLE is a literal too, and so is the body of a function.
func (s Statement) Normalized() (string, error) {
	if s.memo == nil {
		return normalize(s.Text)
	}
	return s.memo.normalized.get(func() (string, error) { return normalize(s.Text) })
}

func normalize(sql string) (string, error) {
	scan, err := scanned(sql)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	end := 0
	for _, t := range scan.GetTokens() {
		from, to := int(t.GetStart()), int(t.GetEnd())
		if from < end || to < from || to > len(sql) {
			return "", fmt.Errorf("the parser's places are outside the text")
		}
		word := sql[from:to]
		switch t.GetToken() {
		case tree.Token_SQL_COMMENT, tree.Token_C_COMMENT:
			continue
		case tree.Token_SCONST, tree.Token_USCONST, tree.Token_BCONST, tree.Token_XCONST, tree.Token_FCONST, tree.Token_ICONST:
			word = "?"
		default:
		}
		if b.Len() > 0 && end < from {
			b.WriteByte(' ')
		}
		b.WriteString(word)
		end = to
	}
	return b.String(), nil
}
