package statement

import (
	"cmp"
	"slices"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

func (a *analyzer) funcCall(s *scope, f *tree.FuncCall, in string) value {
	a.mark(f)
	schema, name := a.split(names(f.GetFuncname()))
	args := make([]value, 0, len(f.GetArgs()))
	var argNames []string
	for _, n := range f.GetArgs() {
		if x := n.GetNamedArgExpr(); x != nil {
			argNames = append(argNames, x.GetName())
		}
		args = append(args, a.expr(s, n, in))
	}
	direct := len(args)
	if f.GetAggWithinGroup() {
		for _, n := range f.GetAggOrder() {
			a.mark(n.GetSortBy())
			args = append(args, a.expr(s, n.GetSortBy().GetNode(), in))
		}
	} else {
		a.order(s, f.GetAggOrder(), nil)
	}
	if n := f.GetAggFilter(); n != nil {
		a.use(a.expr(s, n, Predicate), Predicate)
	}
	a.window(s, f.GetOver())
	list := a.candidates(schema, name, args, argNames...)
	if t, ok := a.coercion(schema, name, args); ok {
		a.becomes(args[0].typ, t, 'e')
	}
	if f.GetFuncVariadic() {
		for i := range args[max(0, direct-1):direct] {
			args[max(0, direct-1)+i].typ = 0
		}
	}
	if len(list) == 0 {
		if v, ok := a.projection(args, name, in); ok {
			return v
		}
		if t, ok := a.coercion(schema, name, args); ok {
			return a.cast(args[0], t, in)
		}
		if _, ok := a.c.Schemas[schema]; schema != "" && !ok {
			a.failAt(f.GetLocation(), "3F000", "schema %q does not exist", schema)
		}
		d := &Doubt{Code: "42883", Message: "function " + strings.Join(names(f.GetFuncname()), ".") + "(" + a.typesShown(args) + ") does not exist"}
		d.Hint = "No function matches the given name and argument types. You might need to add explicit type casts."
		if a.away == 0 {
			d.Position = a.of.position(f.GetLocation())
		}
		panic(d)
	}
	a.resolved[f] = list
	how := Called
	if f.GetOver() != nil || slices.ContainsFunc(list, func(r *Routine) bool { return r.Kind == 'a' || r.Kind == 'w' }) {
		how = Aggregate
	}
	if slices.ContainsFunc(list, (*Routine).setsConfig) && !a.sets[f] {
		a.setConfig(f, false)
	}
	v := a.call(list, cmp.Or(in, how), args...)
	v.name, v.label = "", false
	return v
}

// coercion says that f(x) is x::f.
func (a *analyzer) coercion(schema, name string, args []value) (uint32, bool) {
	if len(args) != 1 {
		return 0, false
	}
	t := a.findType(schema, name)
	return t, t != 0
}

// projection is name(row), which is row.name.
func (a *analyzer) projection(args []value, name, in string) (value, bool) {
	if len(args) != 1 {
		return value{}, false
	}
	if args[0].row != nil {
		return a.qualified(args[0].row, name)
	}
	if t := a.fieldType(args[0].typ, name); t != 0 {
		return a.made(t, cmp.Or(in, Expression), args[0]), true
	}
	return value{}, false
}

// candidates are the functions that may be meant by a name, of those that take so many arguments: one, if it is certain which.
func (a *analyzer) candidates(schema, name string, args []value, argNames ...string) []*Routine {
	var list []*Routine
	path := a.path
	if schema != "" {
		path = []string{schema}
	}
	for _, p := range path {
		for _, r := range a.c.Functions[Name{p, name}] {
			if !r.takes(len(args), argNames) || slices.ContainsFunc(list, func(o *Routine) bool { return slices.Equal(o.Args, r.Args) && o.Variadic == r.Variadic }) {
				continue
			}
			list = append(list, r)
		}
	}
	if len(list) < 2 || len(argNames) > 0 {
		return list
	}
	types := make([]uint32, len(args))
	for i, v := range args {
		types[i] = v.typ
	}
	return a.choose(list, types)
}

func (r *Routine) takes(n int, argNames []string) bool {
	for _, name := range argNames {
		if !slices.Contains(r.ArgNames, name) {
			return false
		}
	}
	if r.Variadic != 0 && n >= len(r.Args)-1 {
		return true
	}
	return n <= len(r.Args) && n >= len(r.Args)-r.Defaults
}

// choose leaves those that PostgreSQL could choose for arguments of these types. Where one takes exactly them, it is the one.
func (a *analyzer) choose(list []*Routine, types []uint32) []*Routine {
	if slices.Contains(types, 0) {
		return list
	}
	for _, r := range list {
		if len(r.Args) == len(types) && r.Variadic == 0 && slices.Equal(r.Args, types) {
			return []*Routine{r}
		}
	}
	var fit []*Routine
	for _, r := range list {
		ok := true
		for i, t := range types {
			ok = ok && a.coercible(t, r.arg(i))
		}
		if ok {
			fit = append(fit, r)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	if slices.ContainsFunc(fit, func(r *Routine) bool { return !r.own() }) {
		return fit // each of them, rather than a wrong one
	}
	return a.best(fit, types)
}

// arg is the type of an argument.
func (r *Routine) arg(i int) uint32 {
	if r.Variadic != 0 && i >= len(r.Args)-1 {
		return r.Variadic
	}
	return r.Args[min(i, len(r.Args)-1)]
}

// coercible says whether PostgreSQL may take a value of one type for an argument of another. In doubt it may.
func (a *analyzer) coercible(from, to uint32) bool {
	if from == to || from == typeUnknown || from == 0 {
		return true
	}
	from = a.c.base(from)
	if from == to {
		return true
	}
	if polymorphic(to) {
		return a.matches(from, to)
	}
	if c, ok := a.c.Casts[[2]uint32{from, to}]; ok {
		return c.Context == 'i'
	}
	f, t := a.c.Types[from], a.c.Types[to]
	if f == nil || t == nil {
		return true
	}
	if f.Kind == 'c' || from == typeRecord {
		return t.Kind == 'c' || to == typeRecord
	}
	if f.Element != 0 && t.Element != 0 {
		return a.coercible(f.Element, t.Element)
	}
	return t.Kind == 'p'
}

// matches says whether a type is one of those that a polymorphic type stands for.
func (a *analyzer) matches(t, polymorphic uint32) bool {
	d := a.c.Types[t]
	if d == nil {
		return true
	}
	switch polymorphic {
	case typeAnyArray, typeCompatArr:
		return d.Element != 0
	case typeAnyNonArr, typeCompatNon:
		return d.Element == 0
	case typeAnyEnum:
		return d.Kind == 'e'
	case typeAnyRange, typeCompatRng:
		return d.Kind == 'r'
	case typeMultiRng, typeCompatMR:
		return d.Kind == 'm'
	}
	return true
}

func polymorphic(t uint32) bool {
	switch t {
	case typeAny, typeAnyArray, typeAnyElem, typeAnyNonArr, typeAnyEnum, typeAnyRange, typeMultiRng, typeCompat, typeCompatArr, typeCompatNon, typeCompatRng, typeCompatMR:
		return true
	}
	return false
}

// call is a call of one of list.
func (a *analyzer) call(list []*Routine, how string, args ...value) value {
	a.calls(list)
	a.asJSON(list, args)
	if len(args) > 0 && slices.ContainsFunc(list, func(r *Routine) bool { return strings.Contains(r.Name.Name, "populate_record") }) {
		if args[0].typ == 0 {
			a.sink.opaque = true
			a.sink.raise(Unknown)
		}
		a.checks(args[0].typ)
	}
	v := a.made(0, how, args...)
	for i, r := range list {
		for j, x := range args {
			if len(r.Args) > 0 {
				a.converted(x.typ, r.arg(j))
			}
		}
		t := a.result(r, args)
		if i > 0 && t != v.typ {
			t = 0
		}
		if v.typ = t; t == 0 {
			break
		}
	}
	if len(list) > 1 {
		for _, r := range list[1:] {
			for j, x := range args {
				if len(r.Args) > 0 {
					a.converted(x.typ, r.arg(j))
				}
			}
		}
	}
	return v
}

func (a *analyzer) result(r *Routine, args []value) uint32 {
	if !polymorphic(r.Result) {
		return r.Result
	}
	elem := uint32(0)
	for i, x := range args {
		if len(r.Args) == 0 {
			break
		}
		switch r.arg(i) {
		case typeAnyElem, typeAnyNonArr, typeAnyEnum:
			elem = a.c.base(x.typ)
		case typeAnyArray:
			elem = a.elementOf(x.typ)
		}
	}
	switch {
	case elem == 0 || elem == typeUnknown:
		return 0
	case r.Result == typeAnyArray:
		return a.arrayOf(elem)
	case r.Result == typeAnyElem || r.Result == typeAnyNonArr || r.Result == typeAnyEnum:
		return elem
	}
	return 0
}

// calls says that these functions may be called.
func (a *analyzer) calls(list []*Routine) {
	for _, r := range list {
		a.sink.set = a.sink.set || r.Set
		a.sink.functions[Function{r.Name.Schema, r.Name.Name, volatility(r.Volatility)}] = true
		switch {
		case a.st.Harmless[r.Name.String()]:
		case !r.own():
			a.sink.opaque = true
			a.sink.raise(Unknown)
		case harmless[r.Name.Name] || r.Name.Schema == "information_schema":
		case dynamic[r.Name.Name]:
			a.sink.opaque = true
			a.sink.raise(Unknown)
		case r.setsConfig():
			a.sink.raise(Session)
		default:
			a.sink.raise(Write)
		}
		if r.own() && exposing[r.Name] || r.Name.Name == "pg_stat_statements" { // of the extension, wherever it was put
			a.sink.exposes[r.Name.String()] = true
		}
	}
}

// own says that a function is PostgreSQL's own.
func (r *Routine) own() bool {
	return r.OID < firstUser && (r.Name.Schema == "pg_catalog" || r.Name.Schema == "information_schema")
}

func (r *Routine) setsConfig() bool { return r.own() && r.Name.Name == "set_config" }

func volatility(v byte) string {
	switch v {
	case 'i':
		return "immutable"
	case 's':
		return "stable"
	}
	return "volatile"
}

// operator is the use of an operator on one or two values.
func (a *analyzer) operator(op []string, how string, args ...value) value {
	schema, name := a.split(op)
	path := a.path
	if schema != "" {
		path = []string{schema}
	}
	if len(args) == 2 && args[0].parts != nil && len(args[0].parts) == len(args[1].parts) {
		for i := range args[0].parts { // rows are compared column by column
			a.operator(op, how, args[0].parts[i], args[1].parts[i])
		}
		return a.made(typeBool, how, args...)
	}
	l, r := uint32(0), args[len(args)-1].typ
	if len(args) == 2 {
		l = args[0].typ
		if l == typeUnknown {
			l = a.c.base(r)
		} else if r == typeUnknown {
			r = a.c.base(l)
		}
	}
	certain := r != 0 && (len(args) == 1 || l != 0)
	var fit []*Operator
	for _, p := range path {
		for _, o := range a.c.Operators[Name{p, name}] {
			if (o.Left == 0) != (len(args) == 1) {
				continue
			}
			if certain && o.Right == r && o.Left == l {
				return a.operated([]*Operator{o}, how, args)
			}
			if slices.ContainsFunc(fit, func(x *Operator) bool { return x.Left == o.Left && x.Right == o.Right }) {
				continue
			}
			if a.coercible(args[len(args)-1].typ, o.Right) && (len(args) == 1 || a.coercible(args[0].typ, o.Left)) {
				fit = append(fit, o)
			}
		}
	}
	if len(fit) == 0 {
		known := slices.ContainsFunc(path, func(p string) bool { return len(a.c.Operators[Name{p, name}]) > 0 })
		if !known {
			fail("42883", "operator does not exist: %s", name)
		}
	}
	return a.operated(a.bestOperator(fit, args), how, args)
}

// bestOperator leaves of PostgreSQL's own operators the one that it would choose.
func (a *analyzer) bestOperator(fit []*Operator, args []value) []*Operator {
	if len(fit) < 2 {
		return fit
	}
	as := map[*Routine]*Operator{}
	var list []*Routine
	for _, o := range fit {
		if o.Function >= firstUser {
			return fit
		}
		r := &Routine{Args: []uint32{o.Left, o.Right}}
		if len(args) == 1 {
			r.Args = r.Args[1:]
		}
		as[r] = o
		list = append(list, r)
	}
	types := make([]uint32, len(args))
	for i, v := range args {
		if types[i] = v.typ; v.typ == 0 {
			return fit
		}
	}
	var out []*Operator
	for _, r := range a.best(list, types) {
		out = append(out, as[r])
	}
	return out
}

func (a *analyzer) operated(list []*Operator, how string, args []value) value {
	v := a.made(0, how, args...)
	for i, o := range list {
		a.implements(o.Function)
		a.converted(args[len(args)-1].typ, o.Right)
		if len(args) == 2 {
			a.converted(args[0].typ, o.Left)
		}
		if i == 0 {
			v.typ = o.Result
		} else if v.typ != o.Result {
			v.typ = 0
		}
	}
	if polymorphic(v.typ) {
		v.typ = 0
	}
	return v
}

// implements says that a function is called that an operator or a cast names. PostgreSQL's own do nothing but compute.
func (a *analyzer) implements(oid uint32) {
	if oid < firstUser {
		return
	}
	r := a.c.Routines[oid]
	if r == nil {
		beyond("the function of an operator or cast is not known")
	}
	a.calls([]*Routine{r})
}

// asJSON says that functions that make JSON of a value use a cast of its type to json, where somebody has made one.
func (a *analyzer) asJSON(list []*Routine, args []value) {
	if !slices.ContainsFunc(list, func(r *Routine) bool { return strings.Contains(r.Name.Name, "json") }) {
		return
	}
	for pair, c := range a.c.userCasts() {
		if to := pair[1]; to != typeJSON && to != typeJSONB {
			continue
		}
		if slices.ContainsFunc(args, func(v value) bool { return a.holds(v, pair[0]) }) {
			a.implements(c.Function)
		}
	}
}

func (a *analyzer) holds(v value, other uint32) bool {
	parts := v.parts
	if v.row != nil && v.row.open == nil {
		parts = v.row.columns
	}
	if parts == nil {
		return a.mayHold(v.typ, other, 0)
	}
	return slices.ContainsFunc(parts, func(p value) bool { return a.holds(p, other) })
}

// mayHold says that a value of type t may be, or have in it, one of another type.
func (a *analyzer) mayHold(t, other uint32, depth int) bool {
	t = a.c.base(t)
	if t == other || t == 0 || t == typeRecord || depth > 8 {
		return true
	}
	d := a.c.Types[t]
	if d == nil || d.Element != 0 {
		return d == nil || a.mayHold(d.Element, other, depth+1)
	}
	if d.Kind != 'c' {
		return false
	}
	rel := a.c.Relations[d.Relation]
	return rel == nil || slices.ContainsFunc(rel.Columns, func(c Attribute) bool { return a.mayHold(c.Type, other, depth+1) })
}
