package catalog

// meaning are the parameters that change what a text means, or what it does, and that nothing follows statement by statement: each with
// the value that is not worth telling.
var meaning = [][2]string{
	{"DateStyle", "ISO, MDY"},
	{"IntervalStyle", "postgres"},
	{"TimeZone", ""},
	{"timezone_abbreviations", "Default"},
	{"transform_null_equals", "off"},
	{"backslash_quote", "safe_encoding"},
	{"array_nulls", "on"},
	{"bytea_output", "hex"},
	{"extra_float_digits", "1"},
	{"xmloption", "content"},
	{"xmlbinary", "base64"},
	{"quote_all_identifiers", "off"},
	{"default_text_search_config", ""},
	{"lc_monetary", ""},
	{"lc_numeric", ""},
	{"lc_time", ""},
	{"row_security", "on"},
	{"session_replication_role", "origin"},
	{"check_function_bodies", "on"},
	{"default_transaction_isolation", "read committed"},
	{"default_tablespace", ""},
	{"default_table_access_method", "heap"},
}

// Meaning asks for them: columns that come behind others.
func Meaning() string {
	sql := ""
	for _, m := range meaning {
		sql += ", pg_catalog.current_setting('" + m[0] + "', true)"
	}
	return sql
}

// Meanings is what the server said, as name=value, without what is not worth telling. It is nil where values are missing.
func Meanings(values []string) []string {
	if len(values) < len(meaning) {
		return nil
	}
	list := []string{}
	for i, m := range meaning {
		if values[i] != m[1] {
			list = append(list, m[0]+"="+values[i])
		}
	}
	return list
}
