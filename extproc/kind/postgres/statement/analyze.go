package statement

import (
	"fmt"
	"slices"

	tree "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// An analyzer analyzes one statement. What it cannot understand is a panic with a *Doubt, which Analyze recovers.
type analyzer struct {
	of         Statement
	c          *Catalog
	st         *State
	path       []string
	params     []uint32      // types of $1, $2, …, as far as the client has given them
	times      map[int32]int // how often each parameter stands in the statement
	sink       *sink
	seen       map[any]bool // nodes of the tree that were understood
	away       int          // in how many definitions of the catalog this is
	depth      int
	dry        bool // EXPLAIN: what changes rows is not run
	views      map[*Relation]*view
	guarded    map[*Relation]*sink     // what the policies of each do; nil while they are looked at
	written    map[Name]bool           // whose triggers and cascades were looked at
	wheres     bool                    // each of them so far has a WHERE that names a column
	conditions int                     // how many parts there are that should have one
	sets       map[*tree.FuncCall]bool // calls of set_config that are certain to run, once
	domain     []uint32                // the types of the domains whose constraints this is in, the innermost last
	answers    *item                   // the relation that RETURNING may name by old and new
	constant   map[string]string       // columns of the outermost query that have one value
	steps      int
	executes   string
	at         int32 // where the column is that was looked at last

	families     map[*Relation][]*Relation     // each with its heirs
	resolved     map[*tree.FuncCall][]*Routine // what each call may be of
	checkedTypes map[uint32]bool               // composite types whose columns' domains were looked at
	changes      []Change
}

// maxSteps is how many nodes are looked at, of the statement and of the definitions that it uses: a recursive query is looked at more than once.
const maxSteps = 1 << 20

func fail(code, format string, args ...any) {
	panic(&Doubt{Code: code, Message: fmt.Sprintf(format, args...)})
}

// failAt is a failure that PostgreSQL would have too, at a place of the statement.
func (a *analyzer) failAt(location int32, code, format string, args ...any) {
	d := &Doubt{Code: code, Message: fmt.Sprintf(format, args...)}
	if a.away == 0 {
		d.Position = a.of.position(location)
	}
	panic(d)
}

// beyond is a doubt about what may be right, and is beyond this package.
func beyond(format string, args ...any) { fail("0A000", format, args...) }

// Analyze says what s does in a session with that state, of a database with that catalog. The error means that nobody can tell,
// and nothing may run. The result is shared: it must not be changed.
func (s Statement) Analyze(c *Catalog, st *State) (Analysis, error) {
	result, err := s.analyze(c, st)
	result.Changes = s.sourced(result.Changes)
	return result, err
}

func (s Statement) analyze(c *Catalog, st *State) (result Analysis, err error) {
	if s.node == nil || c == nil || st == nil {
		return Analysis{Access: Unknown}, errNothing
	}
	if s.shared {
		defer func() {
			if result.Doubt == nil && err == nil {
				return
			}
			if list, again := parse(s.Text, true); again == nil && len(list) == 1 { // what is doubted has places in the text
				list[0].Parameters = s.Parameters
				result, err = list[0].analyze(c, st)
			}
		}()
	}
	key, fixed := s.key(c, st)
	if fixed {
		if a, ok := s.memo.get(key); ok {
			return a, nil
		}
		defer func() {
			if err == nil {
				s.memo.put(key, result)
			}
		}()
	}
	result = Analysis{Access: Unknown, Kind: kindOf(s.node), Command: commandOf(s.node)}
	doubt := func(d *Doubt) Analysis {
		return Analysis{
			Access: Unknown, Kind: result.Kind, Command: result.Command, Doubt: d,
			Reads: []Table{}, Writes: []Table{}, Functions: []Function{}, Changes: []Change{{What: Uncertain, Name: d.Message}},
		}
	}
	a := &analyzer{of: s, c: c, st: st, params: s.Parameters, sink: newSink(), seen: map[any]bool{}, views: map[*Relation]*view{}, guarded: map[*Relation]*sink{}, written: map[Name]bool{}, checkedTypes: map[uint32]bool{}, resolved: map[*tree.FuncCall][]*Routine{}, families: map[*Relation][]*Relation{}, wheres: true}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *Doubt:
			if p.Code == "42702" && a.away == 0 {
				p.Position = s.position(a.at)
			}
			result, err = doubt(p), nil
			if defines(s.node) && (st.Stale != "" || len(st.Fresh) > 0) { // of what was defined just now, perhaps
				result.Access, result.Opaque, result.Doubt, result.Changes = Schema, true, nil, []Change{{What: Defined}}
			}
		default: // what an agent sent must not end the program
			result, err = doubt(&Doubt{Code: "0A000", Message: "the statement was not understood"}), fmt.Errorf("analyze: %v", p)
		}
	}()
	if c.Role != st.Role || c.Database != st.Database {
		return doubt(&Doubt{Code: "0A000", Message: fmt.Sprintf("the catalog is of role %q in %q, and the session's is %q in %q", c.Role, c.Database, st.Role, st.Database)}), nil
	}
	if st.Stale != "" && !settles(s.node) && (st.Stale != redefined || !defines(s.node)) {
		return doubt(&Doubt{Code: "0A000", Message: "the session's state is not known: " + st.Stale}), nil
	}
	a.path = c.path(st)
	a.count(s.node)
	for _, t := range s.Parameters {
		a.checks(t)
	}
	a.statement(&result, s.node)
	a.sink.into(&result)
	result.Changes, result.Executes = a.changes, a.executes
	for _, c := range a.changes {
		if c.Cursor != nil {
			c.Cursor.Analysis = result
		}
	}
	if result.Kind == "cursor" && sortOf(s.node).command == "DECLARE CURSOR" {
		result.Output = nil // it is FETCH that answers
	}
	if a.sink.opaque {
		result.Changes = append(result.Changes, Change{What: Uncertain, Name: "it ran what cannot be known"})
	}
	return result, nil
}

// settles says that a statement can be understood whatever the state is: it ends the transaction, or sets all anew.
func settles(n *tree.Node) bool {
	t := n.GetTransactionStmt()
	return t != nil || n.GetDiscardStmt().GetTarget() == tree.DiscardMode_DISCARD_ALL
}

// defines says that a statement changes definitions only, and moves no rows: it is of the schema, whatever the names in it mean.
func defines(n *tree.Node) bool {
	return sortOf(n).access == Schema && n.GetCreateTableAsStmt() == nil
}

// all holds that each node below m that can act or name something has been understood.
func (a *analyzer) all(m protoreflect.Message, depth int) {
	if depth > 2*maxDepth { // a Node and what it holds are two
		fail("54001", "the statement is nested too deeply")
	}
	if decisive[m.Descriptor().Name()] && !a.seen[m.Interface()] {
		beyond("%s stands where it is not understood", m.Descriptor().Name())
	}
	if m.Descriptor().Name() == "TypeName" {
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				a.all(v.List().Get(i).Message(), depth+1)
			}
		default:
			a.all(v.Message(), depth+1)
		}
		return true
	})
}

var decisive = func() map[protoreflect.Name]bool {
	m := map[protoreflect.Name]bool{}
	for _, n := range []protoreflect.Name{
		"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "IntoClause", "LockingClause", "RangeVar", "ColumnRef", "FuncCall",
		"A_Expr", "SubLink", "TypeCast", "A_Indirection", "CommonTableExpr", "ResTarget", "RangeFunction", "RangeTableFunc", "RangeTableSample",
		"JsonTable", "JoinExpr", "SortBy", "WindowDef", "CurrentOfExpr",
	} {
		m[n] = true
	}
	return m
}()

// count counts the parameters of a statement.
func (a *analyzer) count(n *tree.Node) {
	a.times = map[int32]int{}
	walk(n, func(m any) bool {
		if p, ok := m.(*tree.ParamRef); ok {
			a.times[p.GetNumber()]++
		}
		return true
	})
}

func (a *analyzer) mark(nodes ...any) {
	for _, n := range nodes {
		a.seen[n] = true
	}
}

// in runs f with a sink of its own, and returns it.
func (a *analyzer) in(f func()) *sink {
	outer := a.sink
	a.sink = newSink()
	defer func() { a.sink = outer }()
	f()
	return a.sink
}

// down is called at each level of a tree; up is to be deferred.
func (a *analyzer) down() {
	if a.depth++; a.depth > maxDepth {
		fail("54001", "the statement is nested too deeply")
	}
	if a.steps++; a.steps > maxSteps {
		fail("54001", "the statement is too complex")
	}
}

func (a *analyzer) up() { a.depth-- }

// names are the strings of a list of String nodes.
func names(list []*tree.Node) []string {
	var out []string
	for _, n := range list {
		out = append(out, n.GetString_().GetSval())
	}
	return out
}

// split is a name of one or two parts; three where the first is the database.
func (a *analyzer) split(parts []string) (schema, name string) {
	switch {
	case len(parts) == 3 && parts[0] == a.c.Database:
		return parts[1], parts[2]
	case len(parts) == 2:
		return parts[0], parts[1]
	case len(parts) == 1:
		return "", parts[0]
	}
	fail("0A000", "a name of %d parts is not understood", len(parts))
	return "", ""
}

// definition is the one query of a text of the catalog's own: of a view, a policy, a generated column.
func definition(text string) *tree.SelectStmt {
	list, err := Parse(text, true)
	if err != nil || len(list) != 1 || list[0].node.GetSelectStmt() == nil {
		beyond("a definition of the catalog is not understood: %q", text)
	}
	return list[0].node.GetSelectStmt()
}

// elsewhere runs f with the names as the catalog's own texts have them: without a search_path, parameters or the session's temporary relations.
func (a *analyzer) elsewhere(f func()) {
	path, params, dry := a.path, a.params, a.dry
	a.path, a.params = []string{"pg_catalog"}, nil
	a.away++
	defer func() { a.path, a.params, a.dry, a.away = path, params, dry, a.away-1 }()
	f()
}

func last(list []string) string { return list[len(list)-1] }

// walk calls f with n and each node below it, for as long as f says so.
func walk(n *tree.Node, f func(any) bool) {
	if n != nil {
		walkMessage(n.ProtoReflect(), f, 0)
	}
}

func walkMessage(m protoreflect.Message, f func(any) bool, depth int) {
	if depth > 2*maxDepth {
		fail("54001", "the statement is nested too deeply")
	}
	if !f(m.Interface()) {
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Kind() != protoreflect.MessageKind:
		case fd.IsList():
			for i := range v.List().Len() {
				walkMessage(v.List().Get(i).Message(), f, depth+1)
			}
		default:
			walkMessage(v.Message(), f, depth+1)
		}
		return true
	})
}

// sourced are changes in which what PREPARE makes has the text of this statement: others of its shape share its analysis.
func (s Statement) sourced(changes []Change) []Change {
	i := slices.IndexFunc(changes, func(c Change) bool { return c.What == Prepared && c.Statement != nil })
	if i < 0 {
		return changes
	}
	changes = slices.Clone(changes)
	one := *changes[i].Statement
	one.source = s.Text
	changes[i].Statement = &one
	return changes
}
