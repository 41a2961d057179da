package rules.destructive_test

import data.rules.destructive

request(method, segments, query) := {
	"http": {"method": method, "path": concat("/", array.concat([""], segments)), "segments": segments, "query": query, "form": {}, "headers": {}, "body": null},
	"resource": {"labels": {"approvers": "oncall"}},
}

ids(set) := {rule.id | some rule in set}

test_a_delete_needs_a_person if {
	asks := destructive.ask with input as request("DELETE", ["v1", "users", "7"], {})
	asks == {{"id": "destructive.delete", "reason": "deleting needs a person", "summary": "Delete /v1/users/7", "approvers": ["oncall"]}}
	ids(destructive.deny) == set() with input as request("DELETE", ["v1", "users", "7"], {})
}

test_a_path_that_destroys_needs_a_person if {
	every segments in [["v1", "cache", "purge"], ["users:bulkDelete"], ["drop-table"], ["WIPE"], ["Truncate_all"]] {
		every method in ["GET", "POST"] {
			ids(destructive.ask) == {"destructive.word"} with input as request(method, segments, {})
		}
	}
}

test_other_calls_need_nobody if {
	every segments in [["v1", "users"], ["droplets", "7"], ["undeleted"], ["purgatory"]] {
		ids(destructive.ask) == set() with input as request("POST", segments, {})
		ids(destructive.deny) == set() with input as request("POST", segments, {})
	}
}

test_deleting_everything_is_denied if {
	every segments in [[], [""], ["users"], ["users", ""]] {
		"destructive.root" in ids(destructive.deny) with input as request("DELETE", segments, {})
	}
}

test_deleting_by_wildcard_is_denied if {
	ids(destructive.deny) == {"destructive.wildcard"} with input as request("DELETE", ["v1", "users", "a*"], {})
	ids(destructive.deny) == {"destructive.wildcard"} with input as request("DELETE", ["v1", "users"], {"all": ["true"]})
	ids(destructive.deny) == {"destructive.wildcard"} with input as request("DELETE", ["v1", "users"], {"Delete_All": [""]})
	ids(destructive.deny) == set() with input as request("DELETE", ["v1", "users", "7"], {"force": ["false"]})
}
