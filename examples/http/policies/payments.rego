# METADATA
# title: Payments
# description: |
#   Agents read payments and see no personal data. Refunds and voids need a person. Nothing is exported in bulk.
package rules.payments

allow contains {"id": "read"} if input.http.method == "GET"

# In Rego every value has an order: null, true and false are below every number, and would be below the limit too.
allow contains {"id": "create"} if {
	input.http.method == "POST"
	input.http.segments == ["v1", "payments"]
	is_number(input.http.body.amount)
	input.http.body.amount > 0
	input.http.body.amount <= data.limits.create
}

# The summary is what a person reads first. Without an amount there is none, and the rule asks all the same.
ask contains {
	"id": "refund",
	"reason": "refunds need a person",
	"summary": sprintf("Refund %v of payment %s", [input.http.body.amount, input.http.segments[2]]),
	"approvers": ["payments-oncall"],
	"quorum": 1,
} if {
	input.http.method == "POST"
	input.http.segments = ["v1", "payments", _, "refunds"]
}

deny contains {"id": "delete", "reason": "payments are voided by people, never deleted"} if {
	input.http.method == "DELETE"
}

deny contains {"id": "export", "reason": "no bulk export"} if input.http.segments[1] == "exports"

# By name, at any depth: what is certain to be there.
redact contains {"path": "$..ssn"} if not "pii-reader" in input.principal.groups

# Equal cards have equal tokens: an agent can tell that two payments are from one card, and not from which.
redact contains {"path": "$..card.number", "with": "token"}

# By form, wherever it stands: what nobody expected in a note.
redact contains {"detect": "email"}

redact contains {"detect": "card"}

redact contains {"detect": "iban"}
