# METADATA
# title: What a statement does, in words
# description: |
#   A library for resources of kind postgres: import data.countersign.postgres in your own rules. Everything in it errs to
#   the side of finding, so use it in ask and deny. For allow there are reads, reads_only, writes_only, catalog_only,
#   harmless_session and transaction. Tables are named "schema.table", as they are after search_path, views and partitions.
package countersign.postgres

import future.keywords.not

# Only reads, whatever it looks like: no row, no lock, no definition, no setting is changed anywhere in it.
reads if input.postgres.access == "read"

# Changes rows or more, or cannot be understood. What the session sets for itself, and BEGIN and COMMIT, are no writes.
writes if {
	input.postgres.access
	not input.postgres.access in {"read", "session", "transaction"}
}

# BEGIN, COMMIT, ROLLBACK, savepoints, SET TRANSACTION.
transaction if input.postgres.access == "transaction"

# Changes definitions: CREATE, ALTER, DROP, SELECT INTO, and with them privileges and the server.
changes_schema if input.postgres.access == "schema"

# Takes something away whole. A column that goes with ALTER TABLE is not seen apart from what else that does.
drops if startswith(input.postgres.command, "DROP ")

drops if input.postgres.kind == "truncate"

# Says who may do what. OWNER TO is part of each object's ALTER, and not seen here.
changes_privileges if input.postgres.command in {
	"GRANT", "REVOKE", "GRANT ROLE", "REVOKE ROLE", "ALTER DEFAULT PRIVILEGES", "REASSIGN OWNED", "DROP OWNED",
	"CREATE ROLE", "ALTER ROLE", "DROP ROLE", "CREATE POLICY", "ALTER POLICY", "DROP POLICY", "SECURITY LABEL",
}

# Concerns the whole server or database, brings code into it, or has it speak to others.
changes_server if input.postgres.command in {"ALTER SYSTEM", "LOAD", "CHECKPOINT"}

changes_server if {
	input.postgres.kind == "ddl"
	some thing in [
		"DATABASE", "TABLESPACE", "EXTENSION", "LANGUAGE", "ACCESS METHOD", "EVENT TRIGGER", "CAST", "TRANSFORM", "CONVERSION",
		"FOREIGN DATA WRAPPER", "FOREIGN TABLE", "FOREIGN SCHEMA", "SERVER", "USER MAPPING", "PUBLICATION", "SUBSCRIPTION",
	]
	endswith(input.postgres.command, concat("", [" ", thing]))
}

# COPY with a file or program of the server's machine. \copy of psql and COPY … STDIN are the client's own.
server_copy if input.postgres.copy in {"file", "program"}

# A session's parameters that only say how values are written, or what the session calls itself.
harmless_settings := {
	"application_name", "bytea_output", "client_encoding", "datestyle", "extra_float_digits", "intervalstyle", "lc_messages",
	"lc_monetary", "lc_numeric", "lc_time", "names", "session characteristics", "synchronize_seqscans", "timezone", "transaction",
	"xmloption",
}

# What of the session's parameters a statement sets and is not harmless: role, search_path, statement_timeout, app.tenant.
settings := {name |
	some name in input.postgres.sets
	not name in harmless_settings
}

# Concerns the session alone, and nothing that a later statement means or may: SHOW, formats, cursors, RESET, DISCARD. A
# session that was reset is like a new one. LISTEN is not harmless: it has others' messages come. Nor is a SELECT of tables
# that sets something besides, which has the access session too.
harmless_session if {
	input.postgres.access == "session"
	input.postgres.command != "LISTEN"
	count(settings) == 0
	only_catalog
}

# PostgreSQL's own relations that show values of other tables, statements of other sessions, files or secrets.
revealing_relations := {
	"pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic", "pg_statistic_ext_data", "pg_stat_activity",
	"pg_stat_statements", "pg_prepared_statements", "pg_cursors", "pg_prepared_xacts", "pg_largeobject", "pg_authid", "pg_shadow",
	"pg_user_mapping", "pg_user_mappings", "user_mapping_options", "_pg_user_mappings", "pg_subscription", "pg_hba_file_rules",
	"pg_ident_file_mappings", "pg_file_settings", "pg_replication_slots", "pg_stat_replication", "pg_stat_ssl", "pg_stat_gssapi",
}

# PostgreSQL's own functions that do the same, though they change nothing.
revealing_functions := {
	"pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_mcv_list_items", "pg_stat_statements", "pg_prepared_statement",
	"pg_cursor", "pg_get_replication_slots", "lo_get", "loread",
}

# Shows what other relations, sessions or files hold, by way of the catalog.
reveals if {
	some t in input.postgres.reads
	t.table in revealing_relations
}

reveals if {
	some f in input.postgres.functions
	f.name in revealing_functions
}

catalog_schemas := {"pg_catalog", "information_schema"}

# Reads nothing but definitions: what \d of psql, JDBC's metadata and ORMs look up. What an operator calls harmless is not
# PostgreSQL's own, and could read anything.
catalog_only if {
	reads
	only_catalog
}

only_catalog if {
	not reveals
	count(dangerous) == 0
	every t in input.postgres.reads {
		t.schema in catalog_schemas
	}
	every f in input.postgres.functions {
		f.schema in catalog_schemas
	}
}

# Takes rows of tables without a WHERE that names a column and without a LIMIT. WHERE id = id and a LIMIT of a million are
# beyond this: bound rows with limit.
bulk_reads if {
	input.postgres.kind in {"select", "copy", "cursor", "prepare", "execute"}
	input.postgres.explain == false
	input.postgres.has_where == false
	input.postgres.has_limit == false
	some t in input.postgres.reads
	not t.schema in catalog_schemas
}

# Changes or deletes rows that no WHERE chooses: UPDATE, DELETE, MERGE, TRUNCATE, and those within WITH. PREPARE and EXECUTE
# do not say what of, so theirs of an INSERT are found too, and so is an INSERT that writes several tables.
bulk_writes if input.postgres.kind == "truncate"

bulk_writes if {
	writes
	input.postgres.kind in {"update", "delete", "merge", "select", "copy", "cursor", "prepare", "execute"}
	input.postgres.copy != "stdin"
	input.postgres.has_where == false
	count(input.postgres.writes) > 0
}

bulk_writes if {
	writes
	input.postgres.kind == "insert"
	input.postgres.has_where == false
	count(input.postgres.writes) > 1
}

# The functions that should not be an agent's, with what each does, for a reason: dangerous["pg_read_file"]. A function is
# known by its name in whichever schema, so that it does not matter where an extension was put.
dangerous[name] := what if {
	some f in input.postgres.functions
	name := f.name
	some what, names in dangerous_functions
	name in names
}

dangerous[name] := what if {
	some f in input.postgres.functions
	name := f.name
	some begin, what in dangerous_families
	startswith(name, begin)
}

dangerous["set_config"] := "sets who the session is" if {
	some f in input.postgres.functions
	f.name == "set_config"
	some setting in input.postgres.sets
	setting in {"role", "session_authorization"}
}

# By the beginnings of their names.
dangerous_families := {
	"dblink": "speaks to another database",
	"pg_advisory_": "takes locks that others wait for",
	"pg_clear_": "changes what the server plans by",
	"pg_copy_": "changes a replication",
	"pg_create_": "has the server keep or mark its log",
	"pg_drop_replication_": "ends a replication",
	"pg_file_": "writes files of the server",
	"pg_get_wal_record": "reads the server's log",
	"pg_logical_": "reads or writes the stream of changes",
	"pg_ls_": "lists files of the server",
	"pg_read_": "reads files of the server",
	"pg_restore_": "changes what the server plans by",
	"pg_stat_reset": "clears the server's statistics",
	"pg_sync_replication_": "changes a replication",
	"pg_try_advisory_": "takes locks that others wait for",
	"pg_wal_replay_": "changes a replication",
}

# By their names.
dangerous_functions := {
	"changes the server": {
		"binary_upgrade_set_record_init_privs", "pg_backup_start", "pg_backup_stop", "pg_start_backup", "pg_stop_backup",
		"pg_import_system_collations", "pg_log_backend_memory_contexts", "pg_log_standby_snapshot", "pg_logfile_rotate", "pg_nextoid",
		"pg_promote", "pg_reload_conf", "pg_rotate_logfile", "pg_rotate_logfile_old", "pg_switch_wal",
	},
	"changes a replication": {
		"pg_replication_origin_advance", "pg_replication_origin_create", "pg_replication_origin_drop",
		"pg_replication_origin_session_reset", "pg_replication_origin_session_setup", "pg_replication_origin_xact_reset",
		"pg_replication_origin_xact_setup", "pg_replication_slot_advance",
	},
	"clears the server's statistics": {"pg_stat_statements_reset"},
	"ends others' sessions or statements": {"pg_cancel_backend", "pg_terminate_backend"},
	"keeps a session busy": {"pg_sleep", "pg_sleep_for", "pg_sleep_until"},
	"keeps data in large objects, past every table": {
		"lo_creat", "lo_create", "lo_from_bytea", "lo_get", "lo_open", "lo_put", "lo_truncate", "lo_truncate64", "lo_unlink",
		"loread", "lowrite",
	},
	"looks at files of the server": {
		"pg_current_logfile", "pg_hba_file_rules", "pg_ident_file_mappings", "pg_show_all_file_settings", "pg_stat_file",
	},
	"moves a sequence, so that keys repeat or run out": {"setval"},
	"reads a table that is named in text": {
		"connectby", "cursor_to_xml", "cursor_to_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema",
		"database_to_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema", "schema_to_xmlschema", "table_to_xml",
		"table_to_xml_and_xmlschema", "table_to_xmlschema", "xpath_table",
	},
	"reads files of the server": {"lo_import"},
	"reads tables past their columns": {"get_raw_page", "heap_page_items"},
	"runs SQL that is given as text": {
		"crosstab", "query_to_xml", "query_to_xml_and_xmlschema", "query_to_xmlschema", "ts_rewrite", "ts_stat",
	},
	"sends messages to others' sessions": {"pg_notify"},
	"writes files of the server": {"lo_export"},
}

# Moves a sequence, which no rollback undoes.
uses_sequence if {
	some f in input.postgres.functions
	f.name in {"nextval", "setval"}
}

# The tables, of those that are read, that any of the patterns names: reads_of({"hr.*", "*.salaries", "orders"}). * is any
# text, a pattern without a dot is a table of any schema. A table with a dot in its name is matched from its first dot on.
reads_of(patterns) := {name(t) |
	some t in input.postgres.reads
	named(t, patterns)
}

# The tables that are read and that none of the patterns names: what an allow rule wants empty.
reads_beside(patterns) := {name(t) |
	some t in input.postgres.reads
	not named(t, patterns)
}

# The tables, of those that are written, that any of the patterns names.
writes_of(patterns) := {name(t) |
	some t in input.postgres.writes
	named(t, patterns)
}

# The tables that are written and that none of the patterns names.
writes_beside(patterns) := {name(t) |
	some t in input.postgres.writes
	not named(t, patterns)
}

# Reads nothing but tables that any of the patterns names. What an operator calls harmless, a function of yours, may be called.
reads_only(patterns) if {
	reads
	not reveals
	count(dangerous) == 0
	count(reads_beside(patterns)) == 0
}

# Changes, or locks, rows of tables that any of the patterns in written names, by what it reads of those in read, and does
# nothing else: no definition, no file of the server's, no dangerous function.
writes_only(written, read) if {
	input.postgres.access == "write"
	count(input.postgres.writes) > 0
	count(writes_beside(written)) == 0
	count(reads_beside(read)) == 0
	count(dangerous) == 0
	not reveals
	not server_copy
}

# The columns that are read, "schema.table.column", of those that any of the patterns names: columns_of({"*.customers.iban"}).
# "customers.iban" is of a table in any schema, "iban" of any table.
columns_of(patterns) := {concat(".", [name(t), column]) |
	some t in input.postgres.reads
	some column in t.columns
	some pattern in patterns
	parts := regex.split(`\.`, pattern)
	last := count(parts) - 1
	glob.match(parts[last], null, column)
	named(t, {concat(".", array.concat(["*" | last == 0], array.slice(parts, 0, last)))})
}

name(t) := concat(".", [t.schema, t.table])

named(t, patterns) if {
	some pattern in patterns
	halves := array.concat(["*" | not contains(pattern, ".")], regex.split(`\.`, pattern))
	glob.match(halves[0], null, t.schema)
	glob.match(concat(".", array.slice(halves, 1, count(halves))), null, t.table)
}

# For a summary: "UPDATE of public.customers, without WHERE", in 300 bytes at most.
summary := concat("", [verb, objects, rows, calling]) if input.postgres

verb := input.postgres.command if not input.postgres.explain

verb := concat(" ", ["EXPLAIN", upper(input.postgres.kind)]) if input.postgres.explain

default objects := ""

objects := concat("", [" of ", cut(concat(", ", sort(about)), 40)]) if count(about) > 0

about := {name(t) | some t in input.postgres.writes} if count(input.postgres.writes) > 0

about := {name(t) | some t in input.postgres.reads} if {
	count(input.postgres.writes) == 0
	count(input.postgres.sets) == 0
}

about := {setting | some setting in input.postgres.sets} if {
	count(input.postgres.writes) == 0
	count(input.postgres.sets) > 0
}

default rows := ""

rows := ", without WHERE" if {
	bulk_writes
	not input.postgres.kind in {"insert", "truncate"}
}

default calling := ""

calling := concat("", [", calling ", short(concat(", ", sort([name | some name, _ in dangerous])))]) if count(dangerous) > 0

# A text of the statement for a summary: on one line, and at most 60 characters of it.
short(text) := cut(text, 60)

cut(text, most) := line if {
	line := trim_space(regex.replace(text, `\s+`, " "))
	count(line) <= most
}

cut(text, most) := concat("", [substring(line, 0, most - 3), "..."]) if {
	line := trim_space(regex.replace(text, `\s+`, " "))
	count(line) > most
}
