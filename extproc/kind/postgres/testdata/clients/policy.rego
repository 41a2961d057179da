package rules.payments

import rego.v1

allow contains {"id": "all"} if input.postgres.access != "unknown"

deny contains {"id": "closed", "reason": "The table is closed."} if {
	some t in array.concat(input.postgres.reads, input.postgres.writes)
	t.table == "closed"
}

# What a statement is given is seen, in whichever format it comes.
deny contains {"id": "unlucky", "reason": "Nobody may ask for 999."} if {
	some p in input.postgres.parameters
	p.value == "999"
}

ask contains {"id": "bulk", "approvers": ["payments-oncall"]} if {
	input.postgres.kind == "delete"
	not input.postgres.has_where
}

redact contains {"column": "public.customers.iban"}
