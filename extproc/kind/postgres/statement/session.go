package statement

import (
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// setVariable is SET and RESET.
func (a *analyzer) setVariable(v *tree.VariableSetStmt) {
	name := strings.ToLower(v.GetName())
	change := Change{What: Set, Name: name, Local: v.GetIsLocal()}
	switch v.GetKind() {
	case tree.VariableSetKind_VAR_SET_VALUE:
		for _, n := range v.GetArgs() {
			if t := n.GetTypeCast(); t != nil {
				a.mark(t)
			}
			text, ok := argument(n)
			if !ok {
				beyond("what %s is set to is not understood", name)
			}
			change.Values = append(change.Values, text)
		}
	case tree.VariableSetKind_VAR_SET_DEFAULT, tree.VariableSetKind_VAR_RESET:
		change.What = Reset
	case tree.VariableSetKind_VAR_RESET_ALL:
		change.What = ResetAll
	case tree.VariableSetKind_VAR_SET_MULTI:
		if !strings.HasPrefix(name, "session") { // SET TRANSACTION
			a.sink.raise(Transaction)
		}
		for _, n := range v.GetArgs() {
			text, ok := optionText(n.GetDefElem().GetArg())
			if !ok {
				text = ""
			}
			change.Values = append(change.Values, n.GetDefElem().GetDefname(), text)
		}
	case tree.VariableSetKind_VAR_SET_CURRENT:
		beyond("SET … FROM CURRENT is not understood")
	default:
		beyond("SET does what is not understood")
	}
	a.variable(change)
}

// variable is a parameter that is set, whichever way.
func (a *analyzer) variable(c Change) {
	if c.Name == "client_encoding" || c.Name == "names" {
		if len(c.Values) != 1 || !utf8Name(c.Values[0]) {
			beyond("client_encoding other than UTF8 is not understood")
		}
	}
	if c.Name == "session_replication_role" && c.What == Set { // it is how triggers and foreign keys are got round
		a.sink.raise(Schema)
	}
	a.changes = append(a.changes, c)
}

func utf8Name(s string) bool {
	switch strings.ToLower(strings.NewReplacer("-", "", "_", "", " ", "").Replace(s)) {
	case "utf8", "unicode":
		return true
	}
	return false
}

// argument is an argument of SET as text.
func argument(n *tree.Node) (string, bool) {
	if c := n.GetTypeCast(); c != nil { // SET TIME ZONE INTERVAL '…'
		return argument(c.GetArg())
	}
	if c := n.GetAConst(); c != nil {
		return constText(c)
	}
	return "", false
}

func constText(c *tree.A_Const) (string, bool) {
	switch v := c.GetVal().(type) {
	case *tree.A_Const_Sval:
		return v.Sval.GetSval(), true
	case *tree.A_Const_Ival:
		return itoa(int64(v.Ival.GetIval())), true
	case *tree.A_Const_Fval:
		return v.Fval.GetFval(), true
	case *tree.A_Const_Boolval:
		if v.Boolval.GetBoolval() {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

// decisiveVariables are those that change what a later statement means. search_path and its like are followed only where it is certain that they are set.
var decisiveVariables = map[string]bool{
	"search_path": true, "role": true, "session_authorization": true, "standard_conforming_strings": true,
	"client_encoding": true, "backslash_quote": true, "session_replication_role": true, "row_security": true,
}

// setConfig is a call of set_config. certain says that the statement runs it once, and nothing that depends on it.
func (a *analyzer) setConfig(f *tree.FuncCall, certain bool) {
	args := f.GetArgs()
	text := func(i int) (string, bool) {
		if i >= len(args) {
			return "", false
		}
		return argument(args[i])
	}
	name, ok := text(0)
	if !ok && len(args) > 0 && len(args[0].GetColumnRef().GetFields()) == 1 {
		name, ok = a.constant[args[0].GetColumnRef().GetFields()[0].GetString_().GetSval()]
	}
	name = strings.ToLower(name)
	if !ok {
		beyond("set_config sets what is not known")
	}
	if !decisiveVariables[name] {
		a.changes = append(a.changes, Change{What: Set, Name: name})
		return
	}
	value, ok := text(1)
	local, ok2 := text(2)
	if !ok || !ok2 || !certain || len(args) != 3 {
		beyond("set_config sets %s in a way that is not understood", name)
	}
	c := Change{What: Set, Name: name, Values: []string{value}, Local: local == "true" || local == "t" || local == "on" || local == "1"}
	if !c.Local && local != "false" && local != "f" && local != "off" && local != "0" {
		beyond("set_config sets %s in a way that is not understood", name)
	}
	if name == "search_path" {
		list, ok := SplitPath(value)
		if !ok {
			fail("22023", "invalid list syntax in parameter \"search_path\"")
		}
		c.Values = list
	}
	a.variable(c)
}

// session is a statement that changes the session or its transaction.
func (a *analyzer) session(n any) {
	add := func(c Change) { a.changes = append(a.changes, c) }
	switch n := n.(type) {
	case *tree.Node_TransactionStmt:
		t := n.TransactionStmt
		switch t.GetKind() {
		case tree.TransactionStmtKind_TRANS_STMT_BEGIN, tree.TransactionStmtKind_TRANS_STMT_START:
			c := Change{What: Begin}
			for _, n := range t.GetOptions() {
				text, _ := optionText(n.GetDefElem().GetArg())
				c.Values = append(c.Values, n.GetDefElem().GetDefname(), text)
			}
			add(c)
		case tree.TransactionStmtKind_TRANS_STMT_COMMIT:
			add(Change{What: Commit, Chain: t.GetChain()})
		case tree.TransactionStmtKind_TRANS_STMT_ROLLBACK:
			add(Change{What: Rollback, Chain: t.GetChain()})
		case tree.TransactionStmtKind_TRANS_STMT_SAVEPOINT:
			add(Change{What: Savepoint, Name: t.GetSavepointName()})
		case tree.TransactionStmtKind_TRANS_STMT_RELEASE:
			add(Change{What: Release, Name: t.GetSavepointName()})
		case tree.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:
			add(Change{What: RollbackTo, Name: t.GetSavepointName()})
		case tree.TransactionStmtKind_TRANS_STMT_PREPARE:
			a.sink.raise(Write) // it outlives the session, with its locks
			add(Change{What: Rollback})
		case tree.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED, tree.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED:
			a.sink.raise(Unknown) // what it does was decided elsewhere
			a.sink.opaque = true
		default:
			beyond("a statement of transactions is not understood")
		}
	case *tree.Node_DiscardStmt:
		switch n.DiscardStmt.GetTarget() {
		case tree.DiscardMode_DISCARD_ALL:
			add(Change{What: DiscardAll})
		case tree.DiscardMode_DISCARD_TEMP:
			add(Change{What: Temporary})
		default: // plans and sequences change no meaning
		}
	case *tree.Node_DeallocateStmt:
		if n.DeallocateStmt.GetIsall() {
			add(Change{What: DeallocateAll})
		} else {
			add(Change{What: Deallocated, Name: n.DeallocateStmt.GetName()})
		}
	case *tree.Node_ClosePortalStmt:
		if n.ClosePortalStmt.GetPortalname() == "" {
			add(Change{What: CloseAll})
		} else {
			add(Change{What: Closed, Name: n.ClosePortalStmt.GetPortalname()})
		}
	}
}

// SplitPath reads a search_path as PostgreSQL has it in a setting: names, quoted or not, between commas. It is false where PostgreSQL would not read it.
func SplitPath(text string) ([]string, bool) {
	list := []string{}
	rest := strings.TrimLeft(text, pathSpace)
	if rest == "" {
		return list, true
	}
	for {
		var name string
		if strings.HasPrefix(rest, `"`) {
			var b strings.Builder
			rest = rest[1:]
			for {
				i := strings.IndexByte(rest, '"')
				if i < 0 {
					return nil, false
				}
				b.WriteString(rest[:i])
				if rest = rest[i+1:]; !strings.HasPrefix(rest, `"`) {
					break
				}
				b.WriteByte('"')
				rest = rest[1:]
			}
			name = b.String()
		} else {
			i := strings.IndexAny(rest, ","+pathSpace)
			if i < 0 {
				i = len(rest)
			}
			if i == 0 {
				return nil, false
			}
			name, rest = lower(rest[:i]), rest[i:]
		}
		list = append(list, truncated(name))
		rest = strings.TrimLeft(rest, pathSpace)
		if rest == "" {
			return list, true
		}
		if rest[0] != ',' {
			return nil, false
		}
		if rest = strings.TrimLeft(rest[1:], pathSpace); rest == "" {
			return nil, false
		}
	}
}

const pathSpace = " \t\n\r\f\v"

// lower is of ASCII only, as PostgreSQL does it with UTF-8.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// truncated is a name as long as PostgreSQL keeps them: 63 bytes, cut between characters.
func truncated(s string) string {
	if len(s) < 64 {
		return s
	}
	i := 63
	for i > 0 && s[i]&0xc0 == 0x80 {
		i--
	}
	return s[:i]
}
