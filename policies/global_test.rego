package rules.global_test

import data.rules.global

operation(changes) := object.union(
	{
		"principal": {"kind": "agent"},
		"http": {"method": "GET", "headers": {}, "query": {}, "form": {}},
	},
	changes,
)

ids(set) := {rule.id | some rule in set}

test_an_ordinary_call_is_not_denied if {
	every kind in ["agent", "workload", "person"] {
		ids(global.deny) == set() with input as operation({"principal": {"kind": kind}})
	}
}

test_a_second_method_is_denied if {
	ids(global.deny) == {"global.method-override"} with input as operation({"http": {"query": {"_method": ["PUT"]}}})
}

test_an_unknown_method_is_denied if {
	every method in ["TRACE", "CONNECT", "PROPFIND", "get", ""] {
		ids(global.deny) == {"global.method"} with input as operation({"http": {"method": method}})
	}
}

test_an_unknown_kind_of_principal_is_denied if {
	every kind in ["", "robot", "Agent"] {
		ids(global.deny) == {"global.principal-kind"} with input as operation({"principal": {"kind": kind}})
	}
	ids(global.deny) == {"global.principal-kind"} with input as {"git": {}}
}

test_another_protocol_is_not_denied if {
	ids(global.deny) == set() with input as {"principal": {"kind": "agent"}, "git": {}}
}
