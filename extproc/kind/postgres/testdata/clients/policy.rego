package rules.payments

import rego.v1

allow contains {"id": "all"} if input.postgres.access != "unknown"

# agent-2 may do everything, also what cannot be seen into, and sees everything.
bound if input.principal.subject == "agent-1"

allow contains {"id": "opaque"} if {
	not bound
	input.postgres.opaque
}

deny contains {"id": "closed", "reason": "The table is closed."} if {
	bound
	some t in array.concat(input.postgres.reads, input.postgres.writes)
	t.table == "closed"
}

# What a statement is given is seen, in whichever format it comes.
deny contains {"id": "unlucky", "reason": "Nobody may ask for 999."} if {
	bound
	some p in input.postgres.parameters
	p.value == "999"
}

ask contains {"id": "bulk", "approvers": ["payments-oncall"]} if {
	bound
	input.postgres.kind == "delete"
	not input.postgres.has_where
}

redact contains {"column": "public.customers.iban"} if bound
