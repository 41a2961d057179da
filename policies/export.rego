# METADATA
# title: Bulk export
# description: |
#   Ready-made, and allows nothing by itself: include its ask and deny beside an allow of your own. A page is large above
#   200, or above the resource's label `page_limit`. Who is asked is the label `approvers`; see countersign.people.
#
#     ask contains rule if some rule in data.rules.export.ask
#     deny contains rule if some rule in data.rules.export.deny
package rules.export

import future.keywords.not

import data.countersign.http
import data.countersign.people

# Words in a path that mean that everything comes at once.
exporting := {"backup", "backups", "bulk", "dump", "dumps", "export", "exports", "takeout"}

# What APIs call the size of a page, without regard to case and punctuation.
page_sizes := {
	"count", "first", "last", "limit", "maxresults", "maxrows", "pagelength", "pagelimit",
	"pagesize", "perpage", "resultsperpage", "rows", "size", "take", "top",
}

default page_limit := 200

page_limit := to_number(input.resource.labels.page_limit) if {
	regex.match(`^[0-9]{1,6}$`, input.resource.labels.page_limit)
}

# Whoever has the role or group "exporter" is asked about; for everybody else it is out of the question.
deny contains {"id": "export.path", "reason": "bulk export is not for agents"} if {
	is_export
	not people.is_in({"exporter"})
}

ask contains {
	"id": "export.path",
	"reason": "bulk export needs a person",
	"summary": sprintf("Export in bulk: %s", [http.short(input.http.path)]),
	"approvers": people.approvers,
} if {
	is_export
	people.is_in({"exporter"})
}

ask contains {
	"id": "export.page",
	"reason": sprintf("pages of more than %d need a person", [page_limit]),
	"approvers": people.approvers,
} if {
	some value in http.parameter(page_sizes)
	not is_small(value)
}

is_export if {
	some word in http.words
	word in exporting
}

# Only a plain number within the limit is small: "all", -1, 1e9, "+500", lists and objects are not.
is_small(value) if {
	is_number(value)
	value >= 1
	value <= page_limit
}

is_small(value) if {
	is_string(value)
	regex.match(`^[0-9]{1,6}$`, value)
	to_number(value) >= 1
	to_number(value) <= page_limit
}
