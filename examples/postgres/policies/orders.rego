# METADATA
# title: Orders
# description: |
#   Agents read what is in schema public, but see no account numbers. Those that connect as app_writer change rows. What changes
#   every row of a table needs a person, and definitions are for migrations. countersign.postgres is the library in policies/.
package rules.orders

import data.countersign.postgres

# What psql, drivers and ORMs ask and set when they connect.
allow contains {"id": "catalog"} if postgres.catalog_only

allow contains {"id": "session"} if postgres.harmless_session

allow contains {"id": "transaction"} if postgres.transaction

allow contains {"id": "read"} if postgres.reads_only({"public.*"})

allow contains {"id": "write"} if {
	input.postgres.role == "app_writer"
	postgres.writes_only({"public.*"}, {"public.*"})
}

# The summary is what a person reads first.
ask contains {
	"id": "every-row",
	"reason": "it has no WHERE, so it is for every row",
	"summary": postgres.summary,
	"approvers": ["dba"],
} if {
	postgres.bulk_writes
}

deny contains {"id": "schema", "reason": "definitions are changed by migrations, and not by agents"} if {
	postgres.changes_schema
}

deny contains {"id": "function", "reason": sprintf("%s %s", [name, what])} if some name, what in postgres.dangerous

# An account number is masked where it is a column of the answer. Used in any other way (in a WHERE, in an expression) it refuses.
redact contains {"column": "public.customers.iban"}

# Equal addresses have equal tokens: an agent can tell that two rows have the same, and not which.
redact contains {"column": "public.customers.email", "with": "token"}
