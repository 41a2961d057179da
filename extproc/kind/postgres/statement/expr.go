package statement

import (
	"cmp"
	"slices"

	tree "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// expr is the value of an expression. in says of what it is a part, [Predicate] or [Join] for example, so that whatever is
// used for it is used for that; "" in a list of columns.
func (a *analyzer) expr(s *scope, n *tree.Node, in string) value { //nolint:funlen // one case for each kind of node
	a.down()
	defer a.up()
	switch n := n.GetNode().(type) {
	case *tree.Node_ColumnRef:
		return a.columnRef(s, n.ColumnRef, in)
	case *tree.Node_ParamRef:
		return value{typ: a.param(n.ParamRef.GetNumber())}
	case *tree.Node_AConst:
		return value{typ: constType(n.AConst)}
	case *tree.Node_AIndirection:
		a.mark(n.AIndirection)
		return a.indirect(s, a.expr(s, n.AIndirection.GetArg(), in), n.AIndirection.GetIndirection(), in)
	case *tree.Node_AArrayExpr:
		list := a.exprs(s, n.AArrayExpr.GetElements(), in)
		v := a.made(0, cmp.Or(in, Expression), list...)
		v.typ = a.arrayOf(a.common(list))
		return v
	case *tree.Node_TypeCast:
		return a.typeCast(s, n.TypeCast, in)
	case *tree.Node_CollateClause:
		v := a.expr(s, n.CollateClause.GetArg(), in)
		return value{typ: v.typ, lineage: v.lineage, plain: v.plain, name: v.name, lazy: v.lazy}
	case *tree.Node_AExpr:
		return a.operation(s, n.AExpr, in)
	case *tree.Node_BoolExpr:
		return a.made(typeBool, cmp.Or(in, Expression), a.exprs(s, n.BoolExpr.GetArgs(), in)...)
	case *tree.Node_FuncCall:
		return a.funcCall(s, n.FuncCall, in)
	case *tree.Node_SubLink:
		return a.subLink(s, n.SubLink, in)
	case *tree.Node_CaseExpr:
		return a.caseExpr(s, n.CaseExpr, in)
	case *tree.Node_RowExpr:
		list := a.exprs(s, n.RowExpr.GetArgs(), in)
		v := a.made(typeRecord, cmp.Or(in, Expression), list...)
		v.parts = list
		return v
	case *tree.Node_List:
		return a.made(typeRecord, cmp.Or(in, Expression), a.exprs(s, n.List.GetItems(), in)...)
	case *tree.Node_CoalesceExpr:
		list := a.exprs(s, n.CoalesceExpr.GetArgs(), in)
		return a.made(a.common(list), cmp.Or(in, Expression), list...)
	case *tree.Node_MinMaxExpr:
		list := a.exprs(s, n.MinMaxExpr.GetArgs(), in)
		return a.made(a.common(list), cmp.Or(in, Expression), list...)
	case *tree.Node_SqlvalueFunction:
		return value{typ: sqlValue(n.SqlvalueFunction.GetOp())}
	case *tree.Node_NullTest:
		return a.made(typeBool, cmp.Or(in, Expression), a.expr(s, n.NullTest.GetArg(), in))
	case *tree.Node_BooleanTest:
		return a.made(typeBool, cmp.Or(in, Expression), a.expr(s, n.BooleanTest.GetArg(), in))
	case *tree.Node_GroupingFunc:
		return a.made(typeInt4, cmp.Or(in, Expression), a.exprs(s, n.GroupingFunc.GetArgs(), in)...)
	case *tree.Node_NamedArgExpr:
		return a.expr(s, n.NamedArgExpr.GetArg(), in)
	case *tree.Node_CurrentOfExpr:
		a.mark(n.CurrentOfExpr)
		a.cursor(n.CurrentOfExpr.GetCursorName())
		return value{typ: typeBool}
	case *tree.Node_MultiAssignRef:
		return a.multiAssign(s, n.MultiAssignRef, in)
	case *tree.Node_MergeSupportFunc:
		if a.c.Version < 170000 {
			beyond("merge_action is not known to server version %d", a.c.Version)
		}
		return value{typ: typeText}
	case *tree.Node_SetToDefault:
		return value{typ: typeUnknown}
	}
	return a.structured(s, n, in)
}

// structured is an expression of XML or of SQL/JSON.
func (a *analyzer) structured(s *scope, n *tree.Node, in string) value {
	switch n := n.GetNode().(type) {
	case *tree.Node_XmlExpr:
		return a.built(s, n.XmlExpr.ProtoReflect(), typeXML, in)
	case *tree.Node_XmlSerialize:
		return a.built(s, n.XmlSerialize.ProtoReflect(), a.typeName(n.XmlSerialize.GetTypeName()), in)
	case *tree.Node_JsonIsPredicate:
		return a.json(s, n.JsonIsPredicate.ProtoReflect(), 160000, typeBool, in)
	case *tree.Node_JsonObjectConstructor:
		return a.json(s, n.JsonObjectConstructor.ProtoReflect(), 160000, 0, in)
	case *tree.Node_JsonArrayConstructor:
		return a.json(s, n.JsonArrayConstructor.ProtoReflect(), 160000, 0, in)
	case *tree.Node_JsonArrayQueryConstructor:
		q := n.JsonArrayQueryConstructor
		return a.made(0, cmp.Or(in, Expression), a.query(s, q.GetQuery().GetSelectStmt(), false)...)
	case *tree.Node_JsonObjectAgg:
		return a.json(s, n.JsonObjectAgg.ProtoReflect(), 160000, 0, cmp.Or(in, Aggregate))
	case *tree.Node_JsonArrayAgg:
		return a.json(s, n.JsonArrayAgg.ProtoReflect(), 160000, 0, cmp.Or(in, Aggregate))
	case *tree.Node_JsonParseExpr:
		return a.json(s, n.JsonParseExpr.ProtoReflect(), 170000, typeJSON, in)
	case *tree.Node_JsonScalarExpr:
		return a.json(s, n.JsonScalarExpr.ProtoReflect(), 170000, typeJSON, in)
	case *tree.Node_JsonSerializeExpr:
		return a.json(s, n.JsonSerializeExpr.ProtoReflect(), 170000, 0, in)
	case *tree.Node_JsonFuncExpr:
		return a.json(s, n.JsonFuncExpr.ProtoReflect(), 170000, 0, in)
	}
	beyond("an expression has %T, which is not understood", n.GetNode())
	return value{}
}

// multiAssign is one column of SET (a, b) = ….
func (a *analyzer) multiAssign(s *scope, m *tree.MultiAssignRef, in string) value {
	i := int(m.GetColno()) - 1
	if r := m.GetSource().GetRowExpr(); r != nil {
		if i < 0 || i >= len(r.GetArgs()) {
			fail("42601", "number of columns does not match number of values")
		}
		return a.expr(s, r.GetArgs()[i], in)
	}
	l := m.GetSource().GetSubLink()
	if l == nil {
		beyond("SET of several columns is not understood")
	}
	a.mark(l)
	out := a.query(s, l.GetSubselect().GetSelectStmt(), false)
	if i < 0 || i >= len(out) {
		fail("42601", "number of columns does not match number of values")
	}
	return out[i]
}

// param is the type of a parameter. Where the client gave none, the server takes it from the first place that the parameter stands in: for
// one that stands in several, it is not known here.
func (a *analyzer) param(n int32) uint32 {
	if i := int(n) - 1; i >= 0 && i < len(a.params) && a.params[i] != 0 {
		return a.params[i]
	}
	if a.times[n] > 1 {
		return 0
	}
	return typeUnknown
}

func (a *analyzer) exprs(s *scope, list []*tree.Node, in string) []value {
	out := make([]value, len(list))
	for i, n := range list {
		out[i] = a.expr(s, n, in)
	}
	return out
}

func constType(c *tree.A_Const) uint32 {
	switch v := c.GetVal().(type) {
	case *tree.A_Const_Ival:
		return typeInt4
	case *tree.A_Const_Fval:
		if isInt8(v.Fval.GetFval()) {
			return typeInt8
		}
		return typeNumeric
	case *tree.A_Const_Boolval:
		return typeBool
	case *tree.A_Const_Bsval:
		return typeBit
	}
	return typeUnknown
}

func isInt8(s string) bool {
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return len(s) < 19 || len(s) == 19 && s <= "9223372036854775807"
}

func sqlValue(op tree.SQLValueFunctionOp) uint32 {
	switch op {
	case tree.SQLValueFunctionOp_SVFOP_CURRENT_DATE:
		return typeDate
	case tree.SQLValueFunctionOp_SVFOP_CURRENT_TIME, tree.SQLValueFunctionOp_SVFOP_CURRENT_TIME_N:
		return typeTimetz
	case tree.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP, tree.SQLValueFunctionOp_SVFOP_CURRENT_TIMESTAMP_N:
		return typeTimestamz
	case tree.SQLValueFunctionOp_SVFOP_LOCALTIME, tree.SQLValueFunctionOp_SVFOP_LOCALTIME_N:
		return typeTime
	case tree.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP, tree.SQLValueFunctionOp_SVFOP_LOCALTIMESTAMP_N:
		return typeTimestamp
	default:
		return typeName
	}
}

// columnRef is a column, or a row, or a function of a row that is written like a column.
func (a *analyzer) columnRef(s *scope, c *tree.ColumnRef, in string) value {
	a.mark(c)
	a.at = c.GetLocation()
	if isStar(c.GetFields()) { // count(t.*), (t.*)::text
		parts := names(c.GetFields()[:len(c.GetFields())-1])
		if len(parts) == 0 {
			beyond("* stands where it is not understood")
		}
		schema, name := a.split(parts)
		if it := a.item(s, schema, name); it != nil {
			return it.whole()
		}
		a.missing(s, c.GetLocation(), schema, name)
	}
	parts := names(c.GetFields())
	if len(parts) == 1 {
		if v, ok := a.column(s, parts[0]); ok {
			return v
		}
		if it := a.item(s, "", parts[0]); it != nil {
			return it.whole()
		}
		if parts[0] == "value" && s != nil && s.parent == nil && len(a.domain) > 0 { // VALUE of a domain's constraint
			return value{typ: a.domain[len(a.domain)-1]}
		}
		a.failAt(c.GetLocation(), "42703", "column %q does not exist", parts[0])
	}
	schema, table := a.split(parts[:len(parts)-1])
	name := last(parts)
	it := a.item(s, schema, table)
	if it == nil {
		if schema == "" && (table == "old" || table == "new") && a.answers != nil && a.c.Version >= 180000 {
			it = a.answers
		} else {
			a.missing(s, c.GetLocation(), schema, table)
		}
	}
	if v, ok := a.qualified(it, name); ok {
		return v
	}
	// t.f is f(t) where t has no column f.
	w := it.whole()
	list := a.candidates("", name, []value{w})
	if len(list) == 0 {
		a.failAt(c.GetLocation(), "42703", "column %s.%s does not exist", table, name)
	}
	return a.call(list, cmp.Or(in, Called), w)
}

// indirect is v[…], v.field and (v).field.
func (a *analyzer) indirect(s *scope, v value, list []*tree.Node, in string) value {
	for _, n := range list {
		switch n := n.GetNode().(type) {
		case *tree.Node_AIndices:
			t := a.subscripted(v.typ)
			if n.AIndices.GetIsSlice() && t != 0 {
				t = v.typ
			}
			of := []value{v}
			for _, i := range []*tree.Node{n.AIndices.GetLidx(), n.AIndices.GetUidx()} {
				if i != nil {
					of = append(of, a.expr(s, i, in))
				}
			}
			v = a.made(t, cmp.Or(in, Expression), of...)
		case *tree.Node_String_:
			name := n.String_.GetSval()
			if v.row != nil {
				if got, ok := a.qualified(v.row, name); ok {
					v = got
					continue
				}
			}
			if t := a.fieldType(v.typ, name); t != 0 {
				v = a.made(t, cmp.Or(in, Expression), v)
			} else if list := a.candidates("", name, []value{v}); len(list) > 0 { // (v).f is f(v)
				v = a.call(list, cmp.Or(in, Called), v)
			} else if t := a.c.Types[a.c.base(v.typ)]; t != nil && t.Kind != 'c' && t.Kind != 'p' {
				fail("42809", "column notation .%s applied to type %s, which is not a composite type", name, t.Name.Name)
			} else {
				v = a.made(0, cmp.Or(in, Expression), v)
			}
			v.name, v.label = name, true
		default:
			beyond("(…).* stands where it is not understood")
		}
	}
	return v
}

// subscripted is the type of v[…].
func (a *analyzer) subscripted(t uint32) uint32 {
	t = a.c.base(t)
	switch t {
	case typeName:
		return typeChar
	case typeJSONB:
		return typeJSONB
	}
	if e := a.c.Types[t]; e != nil {
		return e.Element
	}
	return 0
}

func (a *analyzer) fieldType(t uint32, name string) uint32 {
	typ := a.c.Types[a.c.base(t)]
	if typ == nil || typ.Kind != 'c' {
		return 0
	}
	rel := a.c.Relations[typ.Relation]
	if rel == nil || rel.column(name) == nil {
		return 0
	}
	return rel.column(name).Type
}

func (a *analyzer) operation(s *scope, e *tree.A_Expr, in string) value {
	a.mark(e)
	how := cmp.Or(in, Expression)
	op := names(e.GetName())
	right := []*tree.Node{e.GetRexpr()}
	if l := e.GetRexpr().GetList(); l != nil { // IN, BETWEEN
		right = l.GetItems()
	}
	var list []value
	if e.GetLexpr() != nil {
		list = append(list, a.expr(s, e.GetLexpr(), in))
	}
	n := len(list)
	list = append(list, a.exprs(s, right, in)...)
	switch e.GetKind() {
	case tree.A_Expr_Kind_AEXPR_BETWEEN, tree.A_Expr_Kind_AEXPR_NOT_BETWEEN, tree.A_Expr_Kind_AEXPR_BETWEEN_SYM, tree.A_Expr_Kind_AEXPR_NOT_BETWEEN_SYM:
		for _, op := range []string{"<", "<=", ">", ">="} {
			for _, v := range list[1:] {
				a.operator([]string{op}, how, list[0], v)
			}
		}
		return a.made(typeBool, how, list...)
	case tree.A_Expr_Kind_AEXPR_OP_ANY, tree.A_Expr_Kind_AEXPR_OP_ALL:
		r := list[1]
		r.typ = a.elementOf(r.typ)
		a.operator(op, how, list[0], r)
		return a.made(typeBool, how, list...)
	case tree.A_Expr_Kind_AEXPR_NULLIF:
		a.operator(op, how, list...)
		return a.made(list[0].typ, how, list...)
	case tree.A_Expr_Kind_AEXPR_OP:
		if n == 0 {
			return a.operator(op, how, list[0])
		}
		return a.operator(op, how, list[0], list[1])
	default: // IN, DISTINCT, LIKE, ILIKE, SIMILAR
		for _, v := range list[1:] {
			a.operator(op, how, list[0], v)
		}
		return a.made(typeBool, how, list...)
	}
}

func (a *analyzer) elementOf(t uint32) uint32 {
	if t == typeUnknown {
		return t
	}
	if e := a.c.Types[a.c.base(t)]; e != nil {
		return e.Element
	}
	return 0
}

func (a *analyzer) arrayOf(t uint32) uint32 {
	switch e := a.c.Types[t]; {
	case t == typeUnknown:
		t = typeText
		return a.arrayOf(t)
	case e == nil:
		return 0
	case e.Element != 0 && e.Category == 'A':
		return t // ARRAY[ARRAY[…]]
	default:
		return e.Array
	}
}

func (a *analyzer) subLink(s *scope, l *tree.SubLink, in string) value {
	a.mark(l)
	out := asText(a.query(s, l.GetSubselect().GetSelectStmt(), false))
	how := cmp.Or(in, Expression)
	if l.GetSubLinkType() == tree.SubLinkType_EXISTS_SUBLINK {
		return value{typ: typeBool}
	}
	if l.GetSubLinkType() == tree.SubLinkType_EXPR_SUBLINK && len(out) == 1 {
		return value{typ: out[0].typ, lineage: out[0].lineage, plain: out[0].plain, name: out[0].name}
	}
	if l.GetTestexpr() == nil { // ARRAY, or the source of SET (a, b) = (SELECT …)
		v := a.made(0, how, out...)
		if l.GetSubLinkType() == tree.SubLinkType_EXPR_SUBLINK { // compared with a row
			v.parts = out
		} else if len(out) == 1 {
			v.typ = a.arrayOf(out[0].typ)
		}
		return v
	}
	op := names(l.GetOperName())
	if op == nil {
		op = []string{"="}
	}
	test := []*tree.Node{l.GetTestexpr()}
	if r := l.GetTestexpr().GetRowExpr(); r != nil {
		test = r.GetArgs()
	}
	list := a.exprs(s, test, in)
	if len(list) != len(out) {
		for _, v := range out {
			a.operator(op, how, list[0], value{typ: 0, lineage: v.lineage})
		}
	} else {
		for i := range list {
			a.operator(op, how, list[i], out[i])
		}
	}
	return a.made(typeBool, how, slices.Concat(list, out)...)
}

func (a *analyzer) caseExpr(s *scope, c *tree.CaseExpr, in string) value {
	var of []value
	var arg *value
	if n := c.GetArg(); n != nil {
		v := a.expr(s, n, Predicate)
		a.use(v, Predicate)
		arg = &v
		of = append(of, value{lineage: v.lineage})
	}
	var results []value
	for _, n := range c.GetArgs() {
		w := n.GetCaseWhen()
		v := a.expr(s, w.GetExpr(), Predicate)
		if arg != nil {
			a.operator([]string{"="}, Predicate, *arg, v)
		}
		a.use(v, Predicate)
		of = append(of, v)
		results = append(results, a.expr(s, w.GetResult(), in))
	}
	if n := c.GetDefresult(); n != nil { // its type is looked at first
		results = slices.Insert(results, 0, a.expr(s, n, in))
	}
	return a.made(a.common(results), cmp.Or(in, Expression), append(of, results...)...)
}

// json is one of SQL/JSON's constructors. An older server has no such thing, and would take it for the call of a function.
func (a *analyzer) json(s *scope, m protoreflect.Message, since int, t uint32, in string) value {
	if a.c.Version < since {
		beyond("%s is not known to server version %d", m.Descriptor().Name(), a.c.Version)
	}
	return a.built(s, m, t, in)
}

// built is a value that is made of every expression in a node of the tree, whatever the node does with each.
func (a *analyzer) built(s *scope, m protoreflect.Message, t uint32, in string) value {
	return a.made(t, cmp.Or(in, Expression), a.parts(s, m, in)...)
}

func (a *analyzer) parts(s *scope, m protoreflect.Message, in string) (list []value) {
	each := func(m protoreflect.Message) {
		switch x := m.Interface().(type) {
		case *tree.TypeName:
			a.typeName(x)
		case *tree.WindowDef:
			a.window(s, x)
		case *tree.ResTarget:
			a.mark(x)
			list = append(list, a.expr(s, x.GetVal(), in))
		case *tree.SortBy:
			a.order(s, []*tree.Node{{Node: &tree.Node_SortBy{SortBy: x}}}, nil)
		case *tree.Node:
			switch n := x.GetNode().(type) {
			case *tree.Node_ResTarget:
				a.mark(n.ResTarget)
				list = append(list, a.expr(s, n.ResTarget.GetVal(), in))
			case *tree.Node_SortBy:
				a.order(s, []*tree.Node{x}, nil)
			case *tree.Node_String_, nil:
			case *tree.Node_JsonValueExpr, *tree.Node_JsonKeyValue, *tree.Node_JsonOutput, *tree.Node_JsonBehavior, *tree.Node_JsonArgument,
				*tree.Node_JsonAggConstructor, *tree.Node_JsonTableColumn, *tree.Node_JsonTablePathSpec, *tree.Node_RangeTableFuncCol, *tree.Node_JsonFormat, *tree.Node_JsonReturning:
				x.ProtoReflect().Range(func(_ protoreflect.FieldDescriptor, v protoreflect.Value) bool {
					list = append(list, a.parts(s, v.Message(), in)...)
					return true
				})
			default:
				list = append(list, a.expr(s, x, in))
			}
		default:
			list = append(list, a.parts(s, m, in)...)
		}
	}
	a.down()
	defer a.up()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind:
		case f.IsList():
			for i := range v.List().Len() {
				each(v.List().Get(i).Message())
			}
		default:
			each(v.Message())
		}
		return true
	})
	return list
}
