package countersign.postgres_test

import future.keywords.not

import data.countersign.postgres

# What the reader makes of real statements is held by TestPostgresLibrary, with a real server; here is what each rule goes by.
statement(changes) := {"postgres": object.union(
	{
		"access": "read", "kind": "select", "command": "SELECT", "copy": "", "reads": [], "writes": [], "functions": [], "sets": [],
		"has_where": false, "has_limit": false, "explain": false, "text": "SELECT 1",
	},
	changes,
)}

table(schema, name) := {"schema": schema, "table": name, "columns": ["id", "iban"]}

calls(name) := {"functions": [{"schema": "pg_catalog", "name": name, "volatility": "volatile"}]}

test_access if {
	postgres.reads with input as statement({})
	not postgres.writes with input as statement({})
	every access in ["write", "schema", "unknown", "of tomorrow"] {
		postgres.writes with input as statement({"access": access})
		not postgres.reads with input as statement({"access": access})
	}
	every access in ["session", "transaction"] {
		not postgres.writes with input as statement({"access": access})
		not postgres.reads with input as statement({"access": access})
	}
	postgres.transaction with input as statement({"access": "transaction"})
	postgres.changes_schema with input as statement({"access": "schema"})
}

test_nothing_is_said_of_another_protocol if {
	other := {"http": {"method": "DELETE"}}
	not postgres.writes with input as other
	not postgres.reads with input as other
	not postgres.catalog_only with input as other
	not postgres.harmless_session with input as other
	not postgres.summary with input as other
	count(postgres.dangerous) == 0 with input as other
}

test_what_takes_away_whole if {
	every command in ["DROP TABLE", "DROP OWNED", "DROP ROLE"] {
		postgres.drops with input as statement({"access": "schema", "kind": "ddl", "command": command})
	}
	postgres.drops with input as statement({"access": "write", "kind": "truncate", "command": "TRUNCATE TABLE"})
	not postgres.drops with input as statement({"access": "schema", "kind": "ddl", "command": "CREATE TABLE"})
}

test_privileges_and_the_server if {
	every command in ["GRANT", "ALTER ROLE", "SECURITY LABEL"] {
		postgres.changes_privileges with input as statement({"access": "schema", "kind": "ddl", "command": command})
	}
	not postgres.changes_privileges with input as statement({"access": "schema", "kind": "ddl", "command": "ALTER TABLE"})
	every command in ["ALTER SYSTEM", "CREATE EXTENSION", "DROP SUBSCRIPTION"] {
		postgres.changes_server with input as statement({"access": "schema", "kind": "ddl", "command": command})
	}
	not postgres.changes_server with input as statement({"access": "schema", "kind": "ddl", "command": "CREATE TABLE"})
}

test_copy_with_the_servers_files if {
	every copy in ["file", "program"] {
		postgres.server_copy with input as statement({"kind": "copy", "copy": copy})
	}
	every copy in ["stdin", "stdout", ""] {
		not postgres.server_copy with input as statement({"kind": "copy", "copy": copy})
	}
}

test_settings if {
	set := {"access": "session", "kind": "set", "command": "SET"}
	every name in ["datestyle", "timezone", "application_name"] {
		postgres.harmless_session with input as statement(object.union(set, {"sets": [name]}))
	}
	every name in ["role", "session_authorization", "search_path", "statement_timeout", "app.tenant"] {
		not postgres.harmless_session with input as statement(object.union(set, {"sets": ["timezone", name]}))
		postgres.settings == {name} with input as statement(object.union(set, {"sets": ["timezone", name]}))
	}
	not postgres.harmless_session with input as statement({"access": "session", "kind": "listen", "command": "LISTEN"})
	postgres.harmless_session with input as statement({"access": "session", "kind": "show", "command": "SHOW"})
}

test_a_setting_beside_a_table_is_not_of_the_session_alone if {
	beside := {"access": "session", "sets": ["timezone"], "reads": [table("public", "customers")]}
	not postgres.harmless_session with input as statement(beside)
}

test_the_catalog if {
	definitions := {"reads": [table("pg_catalog", "pg_class"), table("information_schema", "columns")]}
	postgres.catalog_only with input as statement(object.union(definitions, calls("pg_get_viewdef")))
	not postgres.catalog_only with input as statement(object.union(definitions, {"access": "write"}))
	not postgres.catalog_only with input as statement({"reads": [table("pg_catalog", "pg_class"), table("public", "orders")]})
	not postgres.catalog_only with input as statement({"functions": [{"schema": "public", "name": "f", "volatility": "stable"}]})
	not postgres.catalog_only with input as statement(calls("query_to_xml"))
}

test_what_the_catalog_reveals if {
	every name in ["pg_stats", "pg_stat_activity", "pg_authid"] {
		revealing := statement({"reads": [table("pg_catalog", name)]})
		postgres.reveals with input as revealing
		not postgres.catalog_only with input as revealing
	}
	postgres.reveals with input as statement(calls("pg_stat_get_activity"))
}

test_bulk_reads if {
	whole := {"reads": [table("public", "customers")]}
	postgres.bulk_reads with input as statement(whole)
	every kind in ["copy", "cursor", "prepare", "execute"] {
		postgres.bulk_reads with input as statement(object.union(whole, {"kind": kind}))
	}
	every part in [{"has_where": true}, {"has_limit": true}, {"explain": true}, {"kind": "update"}] {
		not postgres.bulk_reads with input as statement(object.union(whole, part))
	}
	not postgres.bulk_reads with input as statement({"reads": [table("pg_catalog", "pg_class")]})
}

test_bulk_writes if {
	every kind in ["update", "delete", "merge", "select", "copy", "cursor", "prepare", "execute"] {
		written := {"access": "write", "kind": kind, "writes": [table("public", "customers")]}
		postgres.bulk_writes with input as statement(written)
		not postgres.bulk_writes with input as statement(object.union(written, {"has_where": true}))
		not postgres.bulk_writes with input as statement(object.union(written, {"access": "read"}))
	}
	postgres.bulk_writes with input as statement({"access": "write", "kind": "truncate"})
	insert := {"access": "write", "kind": "insert", "writes": [table("public", "archive")]}
	not postgres.bulk_writes with input as statement(insert)
	both := object.union(insert, {"writes": [table("public", "archive"), table("public", "orders")]})
	postgres.bulk_writes with input as statement(both)
	copied := object.union(insert, {"kind": "copy", "copy": "stdin"})
	not postgres.bulk_writes with input as statement(copied)
}

test_dangerous_functions_have_a_reason if {
	postgres.dangerous == {"pg_sleep": "keeps a session busy"} with input as statement(calls("pg_sleep"))
	postgres.dangerous == {"dblink_exec": "speaks to another database"} with input as statement(calls("dblink_exec"))
	postgres.dangerous == {} with input as statement(calls("lower"))
	set_role := object.union(calls("set_config"), {"access": "session", "sets": ["role"]})
	postgres.dangerous == {"set_config": "sets who the session is"} with input as statement(set_role)
	postgres.dangerous == {} with input as statement(object.union(set_role, {"sets": ["timezone"]}))
}

test_no_function_has_two_reasons if {
	exact := [name | some names in postgres.dangerous_functions; some name in names]
	count(exact) == count({name | some name in exact})
	every name in exact {
		every begin, _ in postgres.dangerous_families {
			not startswith(name, begin)
		}
	}
	every begin, _ in postgres.dangerous_families {
		count([other | some other, _ in postgres.dangerous_families; startswith(other, begin)]) == 1
	}
}

test_sequences if {
	postgres.uses_sequence with input as statement(calls("nextval"))
	not postgres.uses_sequence with input as statement(calls("currval"))
}

test_tables_by_patterns if {
	read := statement({"reads": [table("public", "customers"), table("hr", "people"), table("hr", "odd.name"), table("HR", "people")]})
	postgres.reads_of({"hr.*"}) == {"hr.people", "hr.odd.name"} with input as read
	postgres.reads_of({"people"}) == {"hr.people", "HR.people"} with input as read
	postgres.reads_of({"*.c*", "hr.odd.name"}) == {"public.customers", "hr.odd.name"} with input as read
	postgres.reads_of(set()) == set() with input as read
	postgres.reads_beside({"public.*", "hr.*"}) == {"HR.people"} with input as read
	postgres.reads_beside(set()) == {"public.customers", "hr.people", "hr.odd.name", "HR.people"} with input as read
	written := statement({"writes": [table("public", "customers"), table("pg_temp", "t")]})
	postgres.writes_of({"customers"}) == {"public.customers"} with input as written
	postgres.writes_beside({"public.*"}) == {"pg_temp.t"} with input as written
}

test_what_may_be_read_and_written if {
	orders := {"reads": [table("public", "orders")]}
	postgres.reads_only({"public.*"}) with input as statement(orders)
	not postgres.reads_only({"public.*"}) with input as statement({"reads": [table("public", "orders"), table("hr", "people")]})
	not postgres.reads_only({"public.*"}) with input as statement(object.union(orders, {"access": "write"}))
	not postgres.reads_only({"public.*"}) with input as statement(object.union(orders, calls("dblink")))
	not postgres.reads_only({"public.*"}) with input as statement(object.union(orders, calls("pg_stat_get_activity")))

	update := {"access": "write", "kind": "update", "writes": [table("public", "orders")], "reads": [table("public", "orders")]}
	postgres.writes_only({"orders"}, {"orders"}) with input as statement(update)
	every part in [
		{"access": "schema"}, {"writes": []}, {"writes": [table("public", "orders"), table("hr", "people")]},
		{"reads": [table("hr", "people")]}, {"copy": "file"}, calls("pg_sleep"), calls("pg_stat_get_activity"),
	] {
		not postgres.writes_only({"orders"}, {"orders"}) with input as statement(object.union(update, part))
	}
}

test_columns_by_patterns if {
	read := statement({"reads": [table("public", "customers"), table("hr", "people")]})
	postgres.columns_of({"*.customers.iban"}) == {"public.customers.iban"} with input as read
	postgres.columns_of({"customers.iban"}) == {"public.customers.iban"} with input as read
	postgres.columns_of({"iban"}) == {"public.customers.iban", "hr.people.iban"} with input as read
	postgres.columns_of({"hr.people.*"}) == {"hr.people.id", "hr.people.iban"} with input as read
	postgres.columns_of({"hr.people.name"}) == set() with input as read
}

test_summaries if {
	every c in [
		{"of": {}, "want": "SELECT"},
		{"of": {"reads": [table("public", "b"), table("public", "a")]}, "want": "SELECT of public.a, public.b"},
		{
			"of": {"access": "write", "kind": "update", "command": "UPDATE", "writes": [table("public", "a")]},
			"want": "UPDATE of public.a, without WHERE",
		},
		{
			"of": {"access": "write", "kind": "update", "command": "UPDATE", "writes": [table("public", "a")], "has_where": true},
			"want": "UPDATE of public.a",
		},
		{
			"of": {"access": "write", "kind": "delete", "command": "EXPLAIN", "explain": true, "writes": [table("public", "a")]},
			"want": "EXPLAIN DELETE of public.a, without WHERE",
		},
		{"of": {"access": "session", "kind": "set", "command": "SET", "sets": ["role"]}, "want": "SET of role"},
		{"of": object.union({"access": "write"}, calls("pg_sleep")), "want": "SELECT, calling pg_sleep"},
	] {
		postgres.summary == c.want with input as statement(c.of)
	}
	long := concat("", ["x" | some _ in numbers.range(1, 70)])
	every line in [concat(" ", ["SELECT of", concat("", [concat("", ["public.", concat("", ["x" | some _ in numbers.range(1, 30)])]), "..."])])] {
		postgres.summary == line with input as statement({"reads": [table("public", long)]})
	}
}

test_a_text_for_a_summary_is_short if {
	postgres.short(" SELECT 1,\n\t 2 ") == "SELECT 1, 2"
	long := concat("", ["x" | some _ in numbers.range(1, 61)])
	postgres.short(long) == concat("", [substring(long, 0, 57), "..."])
}
