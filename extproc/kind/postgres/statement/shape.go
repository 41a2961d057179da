package statement

import (
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// Clients that write values into the text send another text each time, and parsing one takes a quarter of a millisecond. So the
// parser is not asked again about a text that differs from one that it has read in nothing but the values of literals, where nothing that
// this package says depends on them.
//
// That two texts are alike is told without a lexer. A literal is taken out only if it is written so plainly, and stands so clearly by
// itself, that where it is a token, it is one of the same kind whatever its value is. Whether it is one, and not within a comment, a name or
// another literal, is told by the tree of the first text of the shape: there has to be a constant at its place. And what is
// constant has to stand where it is only compared, counted with or written, so that nothing that is said depends on it. All
// else of the texts is the same, byte by byte.

// A shaped is what the texts of one shape have in common.
type shaped struct {
	one    Statement // of the first
	suffix int       // bytes behind it
}

// shapes are the shapes that were parsed last.
var shapes = newCache[string, *shaped](1<<20, 16<<10)

// What stands in a shape for a literal.
const (
	shapeInteger = 0x01 // of up to 9 digits: always an int4
	shapeLong    = 0x02 // of 11 to 18 digits: always an int8
	shapeString  = 0x03
)

// maxShaped is how long a text may be that has a shape.
const maxShaped = 8 << 10

// shape is the text with marks in the place of literals, and where these are. There are none where the text has no shape.
func shape(text string) (string, []int) {
	if len(text) > maxShaped {
		return "", nil
	}
	var b strings.Builder
	var places []int
	b.Grow(len(text))
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '\'':
			n := strings.IndexByte(text[i+1:], '\'')
			if n < 0 || !apart(text, i, i+n+2) || !plain(text[i+1:i+1+n]) {
				return "", nil
			}
			places = append(places, i)
			b.WriteByte(shapeString)
			i += n + 2
		case '0' <= c && c <= '9':
			n := i + 1
			for n < len(text) && '0' <= text[n] && text[n] <= '9' {
				n++
			}
			switch length := n - i; {
			case apart(text, i, n) && length <= 9:
				places = append(places, i)
				b.WriteByte(shapeInteger)
			case apart(text, i, n) && 11 <= length && length <= 18 && c != '0':
				places = append(places, i)
				b.WriteByte(shapeLong)
			default:
				b.WriteString(text[i:n])
			}
			i = n
		case c == '\\', c <= shapeString: // an escape, perhaps, and what would be taken for a mark
			return "", nil
		default:
			b.WriteByte(c)
			i++
		}
	}
	if len(places) == 0 {
		return "", nil
	}
	return b.String(), places
}

// apart says that nothing before and behind text[from:to] could be a part of the same token.
func apart(text string, from, to int) bool {
	const ends = " \n\t\r(),;=<>"
	return from > 0 && strings.IndexByte(ends, text[from-1]) >= 0 && (to == len(text) || strings.IndexByte(ends, text[to]) >= 0)
}

// plain says that a string has nothing in it but what stands for itself.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '\\' {
			return false
		}
	}
	return true
}

// like is the statement of a text, by one of the same shape.
func (x *shaped) like(text string) Statement {
	s := x.one
	s.Text, s.shared = text[s.from:len(text)-x.suffix], true
	return s
}

// shapedBy is what texts of the shape of text have in common, or nil where what is said of one does not hold for all.
func shapedBy(text string, places []int, list []Statement) *shaped {
	if len(list) != 1 {
		return nil
	}
	switch list[0].node.GetNode().(type) {
	case *tree.Node_SelectStmt, *tree.Node_InsertStmt, *tree.Node_UpdateStmt, *tree.Node_DeleteStmt:
	default:
		return nil
	}
	idle := map[int32]bool{}
	sets := false
	walk(list[0].node, func(m any) bool {
		switch m := m.(type) {
		case *tree.A_Expr:
			if idleOperator(m) {
				constantsOf(idle, m.GetLexpr(), m.GetRexpr())
			}
		case *tree.UpdateStmt:
			for _, n := range m.GetTargetList() {
				constantsOf(idle, n.GetResTarget().GetVal())
			}
		case *tree.InsertStmt:
			for _, n := range m.GetSelectStmt().GetSelectStmt().GetValuesLists() {
				constantsOf(idle, n)
			}
		case *tree.SelectStmt:
			constantsOf(idle, m.GetLimitCount(), m.GetLimitOffset())
		case *tree.FuncCall:
			sets = sets || last(names(m.GetFuncname())) == "set_config" // what it sets can be a constant of WHERE
		}
		return !sets
	})
	if sets {
		return nil
	}
	for _, i := range places {
		if !idle[int32(i)] {
			return nil
		}
	}
	one := list[0]
	suffix := len(text) - one.from - len(one.Text)
	if suffix < 0 || places[len(places)-1] >= len(text)-suffix || places[0] < one.from {
		return nil
	}
	return &shaped{one: one, suffix: suffix}
}

// idleOperator says that what is said of an operation does not depend on the values of its operands.
func idleOperator(e *tree.A_Expr) bool {
	switch e.GetKind() {
	case tree.A_Expr_Kind_AEXPR_OP, tree.A_Expr_Kind_AEXPR_IN, tree.A_Expr_Kind_AEXPR_LIKE, tree.A_Expr_Kind_AEXPR_ILIKE, tree.A_Expr_Kind_AEXPR_BETWEEN:
	default:
		return false
	}
	if len(e.GetName()) != 1 {
		return false
	}
	switch e.GetName()[0].GetString_().GetSval() {
	case "=", "<>", "<", ">", "<=", ">=", "+", "-", "~~", "!~~", "~~*", "!~~*", "BETWEEN":
		return true
	}
	return false
}

// constantsOf adds the places of constants, and of those in a list.
func constantsOf(places map[int32]bool, nodes ...*tree.Node) {
	for _, n := range nodes {
		if c := n.GetAConst(); c != nil && !c.GetIsnull() && c.GetBoolval() == nil {
			places[c.GetLocation()] = true
		}
		for _, x := range n.GetList().GetItems() {
			if c := x.GetAConst(); c != nil && !c.GetIsnull() && c.GetBoolval() == nil {
				places[c.GetLocation()] = true
			}
		}
	}
}
