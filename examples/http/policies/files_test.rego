package rules.files_test

import data.rules.files

request(method, segments, query) := {
	"principal": {"subject": "agent-1"},
	"http": {"method": method, "segments": segments, "query": query, "body_streamed": true},
}

ids(set) := {rule.id | some rule in set}

test_downloading_is_allowed if {
	every method in ["GET", "HEAD"] {
		ids(files.allow) == {"download"} with input as request(method, ["blob"], {"size": ["100"]})
	}
}

test_uploading_is_allowed_into_a_folder_of_the_agents_name if {
	ids(files.allow) == {"upload"} with input as request("PUT", ["upload"], {"folder": ["agent-1"]})
	every query in [{"folder": ["agent-2"]}, {"folder": ["agent-1", "agent-2"]}, {"folder": []}, {}] {
		ids(files.allow) == set() with input as request("PUT", ["upload"], query)
	}
}

test_nothing_else_is if {
	every method in ["POST", "PATCH", "DELETE", "put"] {
		ids(files.allow) == set() with input as request(method, ["upload"], {"folder": ["agent-1"]})
	}
}
