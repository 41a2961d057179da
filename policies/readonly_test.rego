package rules.readonly_test

import data.rules.readonly

request(method, bytes) := {"http": {"method": method, "body_bytes": bytes}}

ids(set) := {rule.id | some rule in set}

test_a_read_is_allowed if {
	ids(readonly.allow) == {"readonly.read"} with input as request("GET", 0)
	ids(readonly.deny) == set() with input as request("GET", 0)
}

test_a_write_is_denied if {
	every method in ["POST", "DELETE", "TRACE", "get"] {
		ids(readonly.allow) == set() with input as request(method, 0)
		ids(readonly.deny) == {"readonly.write"} with input as request(method, 0)
	}
}

test_a_read_with_a_body_is_denied if {
	ids(readonly.deny) == {"readonly.body"} with input as request("GET", 2)
}
