package statement

import (
	_ "embed"
	"strings"
)

// harmlessText has the names of PostgreSQL's own functions, up to version 18, that compute, or look something up that the role may see, and do nothing
// else: no lock, no file, no transaction id, no SQL that an argument brings. What claims to be immutable or stable there was taken over and read
// through; of the volatile ones, those were that are named for what they tell. A function that is not here is not harmless.
//
//go:embed harmless.txt
var harmlessText string

var harmless = func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.FieldsSeq(harmlessText) {
		m[name] = true
	}
	return m
}()

// dynamic are PostgreSQL's own functions that run SQL, or read relations, that an argument names.
var dynamic = set(
	"query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema",
	"cursor_to_xml", "cursor_to_xmlschema",
	"table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema",
	"schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema",
	"database_to_xml", "database_to_xmlschema", "database_to_xml_and_xmlschema",
	"ts_stat", "ts_rewrite",
	"pg_input_is_valid", "pg_input_error_info", // which read a value of a type that an argument names
	"pg_logical_slot_get_changes", "pg_logical_slot_peek_changes", "pg_logical_slot_get_binary_changes", "pg_logical_slot_peek_binary_changes",
)

// exposing are PostgreSQL's own relations and functions that show values of other relations, other sessions' statements, files or secrets.
var exposing = func() map[Name]bool {
	m := map[Name]bool{}
	for _, n := range []string{
		"pg_statistic", "pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic_ext_data", "pg_mcv_list_items",
		"pg_stat_activity", "pg_stat_get_activity", "pg_stat_get_backend_activity",
		"pg_largeobject", "lo_get", "loread", "lo_export",
		"pg_read_file", "pg_read_binary_file", "pg_read_file_old",
		"pg_authid", "pg_shadow", "pg_user_mapping", "pg_user_mappings", "pg_hba_file_rules",
	} {
		m[Name{"pg_catalog", n}] = true
	}
	return m
}()

// secrets are the columns of PostgreSQL's own relations that expose something where the rest of the relation does not.
var secrets = map[Name]string{{"pg_catalog", "pg_subscription"}: "subconninfo"}

func set(list ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range list {
		m[n] = true
	}
	return m
}
