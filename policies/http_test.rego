package countersign.http_test

import data.countersign.http

request(changes) := {"http": object.union(
	{
		"method": "GET", "path": "/", "segments": [], "query": {}, "headers": {}, "form": {},
		"body": null, "body_bytes": 0, "body_streamed": false,
	},
	changes,
)}

test_safe_methods_read if {
	every method in ["GET", "HEAD", "OPTIONS"] {
		http.reads with input as request({"method": method})
		not http.writes with input as request({"method": method})
	}
}

test_everything_else_writes if {
	every method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "get"] {
		http.writes with input as request({"method": method})
		not http.reads with input as request({"method": method})
	}
}

test_nothing_is_said_of_another_protocol if {
	not http.writes with input as {"git": {}}
	not http.reads with input as {"git": {}}
}

test_deletes if {
	http.deletes with input as request({"method": "DELETE"})
	not http.deletes with input as request({"method": "POST"})
}

test_known_methods if {
	http.known_method with input as request({"method": "PATCH"})
	not http.known_method with input as request({"method": "PURGE"})
}

test_words_are_cut_at_what_joins_them if {
	words := http.words with input as request({"segments": ["v1", "users:bulkDelete", "All-Records", "dump_2026.csv"]})
	{"v1", "users", "bulk", "delete", "bulkdelete", "all", "records", "all-records", "dump", "csv"} - words == set()
}

test_method_overrides_are_found if {
	every changes in [
		{"headers": {"x-http-method-override": ["DELETE"]}},
		{"headers": {"x-method-override": ["DELETE"]}},
		{"query": {"_method": ["delete"]}},
		{"query": {"X-HTTP-Method-Override": ["delete"]}},
		{"form": {"_Method": ["delete"]}},
	] {
		count(http.overrides) == 1 with input as request(changes)
	}
	count(http.overrides) == 0 with input as request({"headers": {"accept": ["*/*"]}, "query": {"method": ["card"]}})
}

test_a_parameter_is_found_wherever_it_is if {
	names := {"pagesize"}
	every changes in [
		{"query": {"page_size": ["7"]}},
		{"query": {"PageSize": ["7"]}},
		{"query": {"$page-size": ["7"]}},
		{"form": {"page.size": ["7"]}},
		{"body": {"pageSize": "7"}},
	] {
		http.parameter(names) == {"7"} with input as request(changes)
	}
	http.parameter(names) == {"1", "9"} with input as request({"query": {"page_size": ["1", "9"]}})
	http.parameter(names) == set() with input as request({"query": {"page": ["7"]}, "body": ["page_size"]})
}

test_a_text_for_a_summary_is_short if {
	http.short("/v1/users/7") == "/v1/users/7"
	http.short(concat("", ["x" | some _ in numbers.range(1, 61)])) == concat("", [concat("", ["x" | some _ in numbers.range(1, 57)]), "..."])
}
