package rules.payments_test

import data.rules.payments

request(method, segments) := {
	"principal": {"subject": "agent-1", "groups": [], "roles": []},
	"resource": {"name": "payments", "kind": "http", "labels": {"data": "pii"}},
	"http": {"method": method, "segments": segments, "query": {}, "headers": {}},
}

post(segments, body) := object.union(request("POST", segments), {"http": {"body": body}})

ids(set) := {rule.id | some rule in set}

test_reading_is_allowed if {
	ids(payments.allow) == {"read"} with input as request("GET", ["v1", "payments", "7"])
	ids(payments.deny) == set() with input as request("GET", ["v1", "payments", "7"])
}

test_a_small_payment_is_allowed if {
	ids(payments.allow) == {"create"} with input as post(["v1", "payments"], {"amount": 500})
}

test_a_payment_above_the_limit_or_of_no_amount_is_not if {
	every body in [{"amount": 501}, {"amount": 0}, {"amount": -1}, {"amount": null}, {"amount": true}, {"amount": "1"}, {}, null, [1]] {
		ids(payments.allow) == set() with input as post(["v1", "payments"], body)
	}
}

test_a_refund_needs_a_person if {
	ids(payments.ask) == {"refund"} with input as post(["v1", "payments", "7", "refunds"], {"amount": 10})
	ids(payments.allow) == set() with input as post(["v1", "payments", "7", "refunds"], {"amount": 10})
	some rule in payments.ask with input as post(["v1", "payments", "7", "refunds"], {"amount": 10})
	rule.summary == "Refund 10 of payment 7"
}

test_deleting_is_denied if {
	ids(payments.deny) == {"delete"} with input as request("DELETE", ["v1", "payments", "7"])
}

test_exporting_is_denied_although_it_reads if {
	ids(payments.deny) == {"export"} with input as request("GET", ["v1", "exports", "all"])
	ids(payments.allow) == {"read"} with input as request("GET", ["v1", "exports", "all"])
}

test_personal_data_is_for_readers_of_it if {
	read := request("GET", ["v1", "payments", "7"])
	{"path": "$..ssn"} in payments.redact with input as read
	reader := object.union(read, {"principal": {"groups": ["pii-reader"]}})
	not {"path": "$..ssn"} in payments.redact with input as reader
	{"path": "$..card.number", "with": "token"} in payments.redact with input as reader
}
