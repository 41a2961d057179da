package statement

import (
	"strings"
	"unicode"

	tree "github.com/pganalyze/pg_query_go/v6"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A sort is what is known of a statement by its outermost node: its kind, its command tag ("" where it depends), and for one
// that is no query its access.
type sort struct {
	kind, command string
	access        Access
}

// sorts are the statements that are known, by the names of their nodes. Any other is Unknown.
var sorts = map[string]sort{
	"SelectStmt": {"select", "SELECT", Read},
	"InsertStmt": {"insert", "INSERT", Write},
	"UpdateStmt": {"update", "UPDATE", Write},
	"DeleteStmt": {"delete", "DELETE", Write},
	"MergeStmt":  {"merge", "MERGE", Write},
	"CopyStmt":   {"copy", "COPY", Read},

	"VariableSetStmt":    {"set", "", Session},
	"VariableShowStmt":   {"show", "SHOW", Session},
	"ConstraintsSetStmt": {"set", "SET CONSTRAINTS", Session},
	"DiscardStmt":        {"discard", "", Session},
	"ListenStmt":         {"listen", "LISTEN", Session},
	"UnlistenStmt":       {"listen", "UNLISTEN", Session},
	"NotifyStmt":         {"notify", "NOTIFY", Write},
	"TransactionStmt":    {"transaction", "", Transaction},
	"PrepareStmt":        {"prepare", "PREPARE", Read},
	"ExecuteStmt":        {"execute", "EXECUTE", Read},
	"DeallocateStmt":     {"deallocate", "", Session},
	"DeclareCursorStmt":  {"cursor", "DECLARE CURSOR", Read},
	"FetchStmt":          {"cursor", "", Read},
	"ClosePortalStmt":    {"cursor", "", Session},
	"ExplainStmt":        {"explain", "EXPLAIN", Read},
	"CallStmt":           {"call", "CALL", Write},
	"DoStmt":             {"do", "DO", Unknown},
	"LoadStmt":           {"load", "LOAD", Unknown},

	"TruncateStmt":       {"truncate", "TRUNCATE TABLE", Write},
	"LockStmt":           {"lock", "LOCK TABLE", Write},
	"VacuumStmt":         {"vacuum", "", Write},
	"ClusterStmt":        {"cluster", "CLUSTER", Write},
	"ReindexStmt":        {"reindex", "REINDEX", Write},
	"RefreshMatViewStmt": {"refresh", "REFRESH MATERIALIZED VIEW", Write},
	"CheckPointStmt":     {"checkpoint", "CHECKPOINT", Write},

	"CreateTableAsStmt":            {"ddl", "", Schema},
	"CreateStmt":                   {"ddl", "CREATE TABLE", Schema},
	"ViewStmt":                     {"ddl", "CREATE VIEW", Schema},
	"IndexStmt":                    {"ddl", "CREATE INDEX", Schema},
	"CreateFunctionStmt":           {"ddl", "", Schema},
	"CreateTrigStmt":               {"ddl", "CREATE TRIGGER", Schema},
	"RuleStmt":                     {"ddl", "CREATE RULE", Schema},
	"CreateSeqStmt":                {"ddl", "CREATE SEQUENCE", Schema},
	"AlterSeqStmt":                 {"ddl", "ALTER SEQUENCE", Schema},
	"CreateSchemaStmt":             {"ddl", "CREATE SCHEMA", Schema},
	"CreateDomainStmt":             {"ddl", "CREATE DOMAIN", Schema},
	"CreateEnumStmt":               {"ddl", "CREATE TYPE", Schema},
	"CreateRangeStmt":              {"ddl", "CREATE TYPE", Schema},
	"CompositeTypeStmt":            {"ddl", "CREATE TYPE", Schema},
	"AlterEnumStmt":                {"ddl", "ALTER TYPE", Schema},
	"AlterTypeStmt":                {"ddl", "ALTER TYPE", Schema},
	"DefineStmt":                   {"ddl", "", Schema},
	"AlterTableStmt":               {"ddl", "", Schema},
	"AlterTableMoveAllStmt":        {"ddl", "", Schema},
	"DropStmt":                     {"ddl", "", Schema},
	"RenameStmt":                   {"ddl", "", Schema},
	"AlterObjectSchemaStmt":        {"ddl", "", Schema},
	"AlterObjectDependsStmt":       {"ddl", "", Schema},
	"AlterOwnerStmt":               {"ddl", "", Schema},
	"AlterFunctionStmt":            {"ddl", "", Schema},
	"AlterDomainStmt":              {"ddl", "ALTER DOMAIN", Schema},
	"AlterOperatorStmt":            {"ddl", "ALTER OPERATOR", Schema},
	"AlterCollationStmt":           {"ddl", "ALTER COLLATION", Schema},
	"AlterDefaultPrivilegesStmt":   {"ddl", "ALTER DEFAULT PRIVILEGES", Schema},
	"GrantStmt":                    {"ddl", "", Schema},
	"GrantRoleStmt":                {"ddl", "", Schema},
	"CommentStmt":                  {"ddl", "COMMENT", Schema},
	"SecLabelStmt":                 {"ddl", "SECURITY LABEL", Schema},
	"CreateRoleStmt":               {"ddl", "CREATE ROLE", Schema},
	"AlterRoleStmt":                {"ddl", "ALTER ROLE", Schema},
	"AlterRoleSetStmt":             {"ddl", "ALTER ROLE", Schema},
	"DropRoleStmt":                 {"ddl", "DROP ROLE", Schema},
	"DropOwnedStmt":                {"ddl", "DROP OWNED", Schema},
	"ReassignOwnedStmt":            {"ddl", "REASSIGN OWNED", Schema},
	"CreatedbStmt":                 {"ddl", "CREATE DATABASE", Schema},
	"DropdbStmt":                   {"ddl", "DROP DATABASE", Schema},
	"AlterDatabaseStmt":            {"ddl", "ALTER DATABASE", Schema},
	"AlterDatabaseSetStmt":         {"ddl", "ALTER DATABASE", Schema},
	"AlterDatabaseRefreshCollStmt": {"ddl", "ALTER DATABASE", Schema},
	"AlterSystemStmt":              {"ddl", "ALTER SYSTEM", Schema},
	"CreateTableSpaceStmt":         {"ddl", "CREATE TABLESPACE", Schema},
	"DropTableSpaceStmt":           {"ddl", "DROP TABLESPACE", Schema},
	"AlterTableSpaceOptionsStmt":   {"ddl", "ALTER TABLESPACE", Schema},
	"CreateExtensionStmt":          {"ddl", "CREATE EXTENSION", Schema},
	"AlterExtensionStmt":           {"ddl", "ALTER EXTENSION", Schema},
	"AlterExtensionContentsStmt":   {"ddl", "ALTER EXTENSION", Schema},
	"CreateFdwStmt":                {"ddl", "CREATE FOREIGN DATA WRAPPER", Schema},
	"AlterFdwStmt":                 {"ddl", "ALTER FOREIGN DATA WRAPPER", Schema},
	"CreateForeignServerStmt":      {"ddl", "CREATE SERVER", Schema},
	"AlterForeignServerStmt":       {"ddl", "ALTER SERVER", Schema},
	"CreateForeignTableStmt":       {"ddl", "CREATE FOREIGN TABLE", Schema},
	"CreateUserMappingStmt":        {"ddl", "CREATE USER MAPPING", Schema},
	"AlterUserMappingStmt":         {"ddl", "ALTER USER MAPPING", Schema},
	"DropUserMappingStmt":          {"ddl", "DROP USER MAPPING", Schema},
	"ImportForeignSchemaStmt":      {"ddl", "IMPORT FOREIGN SCHEMA", Schema},
	"CreatePolicyStmt":             {"ddl", "CREATE POLICY", Schema},
	"AlterPolicyStmt":              {"ddl", "ALTER POLICY", Schema},
	"CreateAmStmt":                 {"ddl", "CREATE ACCESS METHOD", Schema},
	"CreateEventTrigStmt":          {"ddl", "CREATE EVENT TRIGGER", Schema},
	"AlterEventTrigStmt":           {"ddl", "ALTER EVENT TRIGGER", Schema},
	"CreatePLangStmt":              {"ddl", "CREATE LANGUAGE", Schema},
	"CreateOpClassStmt":            {"ddl", "CREATE OPERATOR CLASS", Schema},
	"CreateOpFamilyStmt":           {"ddl", "CREATE OPERATOR FAMILY", Schema},
	"AlterOpFamilyStmt":            {"ddl", "ALTER OPERATOR FAMILY", Schema},
	"CreateStatsStmt":              {"ddl", "CREATE STATISTICS", Schema},
	"AlterStatsStmt":               {"ddl", "ALTER STATISTICS", Schema},
	"CreateConversionStmt":         {"ddl", "CREATE CONVERSION", Schema},
	"CreateCastStmt":               {"ddl", "CREATE CAST", Schema},
	"CreateTransformStmt":          {"ddl", "CREATE TRANSFORM", Schema},
	"AlterTSDictionaryStmt":        {"ddl", "ALTER TEXT SEARCH DICTIONARY", Schema},
	"AlterTSConfigurationStmt":     {"ddl", "ALTER TEXT SEARCH CONFIGURATION", Schema},
	"CreatePublicationStmt":        {"ddl", "CREATE PUBLICATION", Schema},
	"AlterPublicationStmt":         {"ddl", "ALTER PUBLICATION", Schema},
	"CreateSubscriptionStmt":       {"ddl", "CREATE SUBSCRIPTION", Schema},
	"AlterSubscriptionStmt":        {"ddl", "ALTER SUBSCRIPTION", Schema},
	"DropSubscriptionStmt":         {"ddl", "DROP SUBSCRIPTION", Schema},
}

// inner is the node that a Node holds; nil where it holds none.
func inner(n *tree.Node) protoreflect.Message {
	m := n.ProtoReflect()
	f := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if f == nil {
		return nil
	}
	return m.Get(f).Message()
}

func sortOf(n *tree.Node) sort {
	m := inner(n)
	if m == nil {
		return sort{"empty", "", Session}
	}
	s, ok := sorts[string(m.Descriptor().Name())]
	if !ok {
		return sort{"other", words(strings.TrimSuffix(string(m.Descriptor().Name()), "Stmt")), Unknown}
	}
	return s
}

func kindOf(n *tree.Node) string {
	if e := n.GetExplainStmt(); e != nil {
		return kindOf(e.GetQuery())
	}
	return sortOf(n).kind
}

// words is "CREATE AM" of "CreateAm".
func words(s string) string {
	var b strings.Builder
	for i, r := range s {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// commandOf is the command tag, as CreateCommandTag of PostgreSQL has it.
func commandOf(n *tree.Node) string { //nolint:funlen // one case for each kind of node
	switch x := n.GetNode().(type) {
	case *tree.Node_SelectStmt:
		if x.SelectStmt.GetIntoClause() != nil {
			return "SELECT INTO"
		}
	case *tree.Node_VariableSetStmt:
		if k := x.VariableSetStmt.GetKind(); k == tree.VariableSetKind_VAR_RESET || k == tree.VariableSetKind_VAR_RESET_ALL {
			return "RESET"
		}
		return "SET"
	case *tree.Node_DiscardStmt:
		return strings.ReplaceAll(x.DiscardStmt.GetTarget().String(), "_", " ")
	case *tree.Node_DeallocateStmt:
		if x.DeallocateStmt.GetIsall() {
			return "DEALLOCATE ALL"
		}
		return "DEALLOCATE"
	case *tree.Node_FetchStmt:
		if x.FetchStmt.GetIsmove() {
			return "MOVE"
		}
		return "FETCH"
	case *tree.Node_ClosePortalStmt:
		if x.ClosePortalStmt.GetPortalname() == "" {
			return "CLOSE CURSOR ALL"
		}
		return "CLOSE CURSOR"
	case *tree.Node_TransactionStmt:
		return transactionTag[x.TransactionStmt.GetKind()]
	case *tree.Node_VacuumStmt:
		if x.VacuumStmt.GetIsVacuumcmd() {
			return "VACUUM"
		}
		return "ANALYZE"
	case *tree.Node_CreateTableAsStmt:
		if x.CreateTableAsStmt.GetObjtype() == tree.ObjectType_OBJECT_MATVIEW {
			return "CREATE MATERIALIZED VIEW"
		}
		return "CREATE TABLE AS"
	case *tree.Node_CreateFunctionStmt:
		if x.CreateFunctionStmt.GetIsProcedure() {
			return "CREATE PROCEDURE"
		}
		return "CREATE FUNCTION"
	case *tree.Node_DefineStmt:
		return "CREATE " + object(x.DefineStmt.GetKind())
	case *tree.Node_AlterTableStmt:
		return "ALTER " + object(x.AlterTableStmt.GetObjtype())
	case *tree.Node_AlterTableMoveAllStmt:
		return "ALTER " + object(x.AlterTableMoveAllStmt.GetObjtype())
	case *tree.Node_DropStmt:
		return "DROP " + object(x.DropStmt.GetRemoveType())
	case *tree.Node_RenameStmt:
		t := x.RenameStmt.GetRenameType()
		if t == tree.ObjectType_OBJECT_COLUMN || t == tree.ObjectType_OBJECT_ATTRIBUTE {
			t = x.RenameStmt.GetRelationType()
		}
		return "ALTER " + object(t)
	case *tree.Node_AlterObjectSchemaStmt:
		return "ALTER " + object(x.AlterObjectSchemaStmt.GetObjectType())
	case *tree.Node_AlterObjectDependsStmt:
		return "ALTER " + object(x.AlterObjectDependsStmt.GetObjectType())
	case *tree.Node_AlterOwnerStmt:
		return "ALTER " + object(x.AlterOwnerStmt.GetObjectType())
	case *tree.Node_AlterFunctionStmt:
		return "ALTER " + object(x.AlterFunctionStmt.GetObjtype())
	case *tree.Node_GrantStmt:
		if x.GrantStmt.GetIsGrant() {
			return "GRANT"
		}
		return "REVOKE"
	case *tree.Node_GrantRoleStmt:
		if x.GrantRoleStmt.GetIsGrant() {
			return "GRANT ROLE"
		}
		return "REVOKE ROLE"
	}
	return sortOf(n).command
}

var transactionTag = map[tree.TransactionStmtKind]string{
	tree.TransactionStmtKind_TRANS_STMT_BEGIN:             "BEGIN",
	tree.TransactionStmtKind_TRANS_STMT_START:             "START TRANSACTION",
	tree.TransactionStmtKind_TRANS_STMT_COMMIT:            "COMMIT",
	tree.TransactionStmtKind_TRANS_STMT_ROLLBACK:          "ROLLBACK",
	tree.TransactionStmtKind_TRANS_STMT_SAVEPOINT:         "SAVEPOINT",
	tree.TransactionStmtKind_TRANS_STMT_RELEASE:           "RELEASE",
	tree.TransactionStmtKind_TRANS_STMT_ROLLBACK_TO:       "ROLLBACK",
	tree.TransactionStmtKind_TRANS_STMT_PREPARE:           "PREPARE TRANSACTION",
	tree.TransactionStmtKind_TRANS_STMT_COMMIT_PREPARED:   "COMMIT PREPARED",
	tree.TransactionStmtKind_TRANS_STMT_ROLLBACK_PREPARED: "ROLLBACK PREPARED",
}

// object is a kind of object as command tags name it.
func object(t tree.ObjectType) string {
	switch t {
	case tree.ObjectType_OBJECT_MATVIEW:
		return "MATERIALIZED VIEW"
	case tree.ObjectType_OBJECT_OPCLASS:
		return "OPERATOR CLASS"
	case tree.ObjectType_OBJECT_OPFAMILY:
		return "OPERATOR FAMILY"
	case tree.ObjectType_OBJECT_FDW:
		return "FOREIGN DATA WRAPPER"
	case tree.ObjectType_OBJECT_FOREIGN_SERVER:
		return "SERVER"
	case tree.ObjectType_OBJECT_LARGEOBJECT:
		return "LARGE OBJECT"
	case tree.ObjectType_OBJECT_STATISTIC_EXT:
		return "STATISTICS"
	case tree.ObjectType_OBJECT_TABCONSTRAINT, tree.ObjectType_OBJECT_COLUMN:
		return "TABLE"
	case tree.ObjectType_OBJECT_DOMCONSTRAINT:
		return "DOMAIN"
	case tree.ObjectType_OBJECT_ATTRIBUTE:
		return "TYPE"
	case tree.ObjectType_OBJECT_TSCONFIGURATION:
		return "TEXT SEARCH CONFIGURATION"
	case tree.ObjectType_OBJECT_TSDICTIONARY:
		return "TEXT SEARCH DICTIONARY"
	case tree.ObjectType_OBJECT_TSPARSER:
		return "TEXT SEARCH PARSER"
	case tree.ObjectType_OBJECT_TSTEMPLATE:
		return "TEXT SEARCH TEMPLATE"
	default:
		return strings.ReplaceAll(strings.TrimPrefix(t.String(), "OBJECT_"), "_", " ")
	}
}
