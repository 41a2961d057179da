package rules.orders_test

import data.rules.orders

statement(changes) := {
	"principal": {"subject": "agent-1", "groups": [], "roles": []},
	"resource": {"name": "orders", "kind": "postgres", "labels": {}},
	"postgres": object.union(
		{
			"role": "app_writer", "access": "read", "kind": "select", "command": "SELECT", "copy": "", "reads": [], "writes": [],
			"functions": [], "sets": [], "has_where": false, "has_limit": false, "explain": false,
		},
		changes,
	),
}

customers := [{"schema": "public", "table": "customers", "columns": ["id", "iban"]}]

update := {"access": "write", "kind": "update", "command": "UPDATE", "writes": customers}

ids(set) := {rule.id | some rule in set}

test_reading_is_allowed if {
	ids(orders.allow) == {"read"} with input as statement({"reads": customers})
	ids(orders.allow) == set() with input as statement({"reads": [{"schema": "hr", "table": "people", "columns": ["id"]}]})
}

test_what_clients_do_when_they_connect_is_allowed if {
	"catalog" in ids(orders.allow) with input as statement({"reads": [{"schema": "pg_catalog", "table": "pg_class", "columns": []}]})
	ids(orders.allow) == {"session"} with input as statement({"access": "session", "kind": "set", "command": "SET", "sets": ["datestyle"]})
	ids(orders.allow) == set() with input as statement({"access": "session", "kind": "set", "command": "SET", "sets": ["role"]})
	ids(orders.allow) == {"transaction"} with input as statement({"access": "transaction", "kind": "transaction", "command": "BEGIN"})
}

test_rows_are_changed_by_the_role_for_it if {
	some_rows := object.union(update, {"has_where": true})
	ids(orders.allow) == {"write"} with input as statement(some_rows)
	ids(orders.ask) == set() with input as statement(some_rows)
	ids(orders.allow) == set() with input as statement(object.union(some_rows, {"role": "app_reader"}))
}

test_every_row_needs_a_person if {
	some rule in orders.ask with input as statement(update)
	rule.id == "every-row"
	rule.summary == "UPDATE of public.customers, without WHERE"
}

test_definitions_are_not_for_agents if {
	ids(orders.deny) == {"schema"} with input as statement({"access": "schema", "kind": "ddl", "command": "DROP TABLE", "writes": customers})
}

test_dangerous_functions_are_denied_with_a_reason if {
	calls := {"access": "write", "functions": [{"schema": "pg_catalog", "name": "pg_sleep", "volatility": "volatile"}]}
	orders.deny == {{"id": "function", "reason": "pg_sleep keeps a session busy"}} with input as statement(calls)
}

test_what_is_masked if {
	{"column": "public.customers.iban"} in orders.redact with input as statement({})
	{"column": "public.customers.email", "with": "token"} in orders.redact with input as statement({})
}
