package statement

import (
	"slices"
	"strings"

	tree "github.com/pganalyze/pg_query_go/v6"
)

// label is the name that PostgreSQL gives to a column that has none (FigureColname), and whether it is better than the name of a type.
func label(n *tree.Node) (string, bool) { //nolint:funlen // one case for each kind of node
	switch n := n.GetNode().(type) {
	case *tree.Node_ColumnRef:
		for _, f := range slices.Backward(n.ColumnRef.GetFields()) { // past the star of t.*::text
			if name := f.GetString_().GetSval(); name != "" {
				return name, true
			}
		}
	case *tree.Node_AIndirection:
		for i := len(n.AIndirection.GetIndirection()) - 1; i >= 0; i-- {
			if s := n.AIndirection.GetIndirection()[i].GetString_(); s != nil {
				return s.GetSval(), true
			}
		}
		return label(n.AIndirection.GetArg())
	case *tree.Node_FuncCall:
		return last(names(n.FuncCall.GetFuncname())), true
	case *tree.Node_AExpr:
		if n.AExpr.GetKind() == tree.A_Expr_Kind_AEXPR_NULLIF {
			return "nullif", true
		}
	case *tree.Node_TypeCast:
		if s, ok := label(n.TypeCast.GetArg()); ok {
			return s, true
		}
		if list := names(n.TypeCast.GetTypeName().GetNames()); len(list) > 0 {
			return last(list), false
		}
	case *tree.Node_CollateClause:
		return label(n.CollateClause.GetArg())
	case *tree.Node_GroupingFunc:
		return "grouping", true
	case *tree.Node_MergeSupportFunc:
		return "merge_action", true
	case *tree.Node_SubLink:
		switch n.SubLink.GetSubLinkType() {
		case tree.SubLinkType_EXISTS_SUBLINK:
			return "exists", true
		case tree.SubLinkType_ARRAY_SUBLINK:
			return "array", true
		case tree.SubLinkType_EXPR_SUBLINK:
			return subLabel(n.SubLink.GetSubselect().GetSelectStmt())
		default:
		}
	case *tree.Node_CaseExpr:
		if s, ok := label(n.CaseExpr.GetDefresult()); ok {
			return s, true
		}
		return "case", false
	case *tree.Node_AArrayExpr:
		return "array", true
	case *tree.Node_RowExpr:
		return "row", true
	case *tree.Node_CoalesceExpr:
		return "coalesce", true
	case *tree.Node_MinMaxExpr:
		return strings.ToLower(strings.TrimPrefix(n.MinMaxExpr.GetOp().String(), "IS_")), true
	case *tree.Node_SqlvalueFunction:
		return strings.TrimSuffix(strings.ToLower(strings.TrimPrefix(n.SqlvalueFunction.GetOp().String(), "SVFOP_")), "_n"), true
	case *tree.Node_XmlExpr:
		return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(n.XmlExpr.GetOp().String(), "IS_")), "_", ""), true
	case *tree.Node_XmlSerialize:
		return "xmlserialize", true
	case *tree.Node_JsonObjectConstructor:
		return "json_object", true
	case *tree.Node_JsonArrayConstructor, *tree.Node_JsonArrayQueryConstructor:
		return "json_array", true
	case *tree.Node_JsonObjectAgg:
		return "json_objectagg", true
	case *tree.Node_JsonArrayAgg:
		return "json_arrayagg", true
	case *tree.Node_JsonParseExpr:
		return "json", true
	case *tree.Node_JsonScalarExpr:
		return "json_scalar", true
	case *tree.Node_JsonSerializeExpr:
		return "json_serialize", true
	case *tree.Node_JsonFuncExpr:
		return strings.ToLower(strings.TrimSuffix(n.JsonFuncExpr.GetOp().String(), "_OP")), true
	}
	return "?column?", false
}

// subLabel is the name of the first column of a query.
func subLabel(q *tree.SelectStmt) (string, bool) {
	for q.GetLarg() != nil {
		q = q.GetLarg()
	}
	if len(q.GetValuesLists()) > 0 {
		return "column1", true
	}
	if list := q.GetTargetList(); len(list) > 0 {
		if name := list[0].GetResTarget().GetName(); name != "" {
			return name, true
		}
		return label(list[0].GetResTarget().GetVal())
	}
	return "?column?", false
}
