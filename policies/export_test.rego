package rules.export_test

import data.rules.export

request(segments, query, groups) := {
	"http": {"method": "GET", "path": concat("/", array.concat([""], segments)), "segments": segments, "query": query, "form": {}, "body": null},
	"resource": {"labels": {"approvers": "oncall"}},
	"principal": {"groups": groups, "roles": []},
}

ids(set) := {rule.id | some rule in set}

test_an_export_is_denied if {
	every segments in [["v1", "users", "export"], ["exports"], ["users:bulkGet"], ["db-dump"], ["Backup"]] {
		ids(export.deny) == {"export.path"} with input as request(segments, {}, [])
		ids(export.ask) == set() with input as request(segments, {}, [])
	}
}

test_an_exporter_needs_a_person if {
	ids(export.deny) == set() with input as request(["exports"], {}, ["exporter"])
	ids(export.ask) == {"export.path"} with input as request(["exports"], {}, ["exporter"])
	some rule in export.ask with input as request(["exports"], {}, ["exporter"])
	rule.summary == "Export in bulk: /exports"
}

test_a_small_page_needs_nobody if {
	every value in ["1", "200", "0200"] {
		ids(export.ask) == set() with input as request(["users"], {"limit": [value]}, [])
	}
	ids(export.ask) == set() with input as request(["users"], {"page": ["1000"]}, [])
}

test_a_large_page_needs_a_person if {
	every value in ["201", "0", "-1", "1e9", "+500", "all", "", "99999999999999999999", "1.5", " 7"] {
		ids(export.ask) == {"export.page"} with input as request(["users"], {"per_page": [value]}, [])
	}
	ids(export.ask) == {"export.page"} with input as request(["users"], {"$top": ["10", "5000"]}, [])
}

search(body) := object.union(request(["search"], {}, []), {"http": {"body": body}})

test_a_page_size_in_the_body if {
	every body in [{"size": 10}, {"size": "10"}, {"query": "x"}, null, [500]] {
		ids(export.ask) == set() with input as search(body)
	}
	every size in [10000, 0, -1, null, [10], {"n": 10}, "many"] {
		ids(export.ask) == {"export.page"} with input as search({"size": size})
	}
}

labelled(value) := object.union(request(["users"], {"limit": ["300"]}, []), {"resource": {"labels": {"page_limit": value}}})

test_the_limit_is_a_label if {
	ids(export.ask) == set() with input as labelled("500")
	every value in ["100", "none", "1e9", ""] {
		ids(export.ask) == {"export.page"} with input as labelled(value)
	}
}
