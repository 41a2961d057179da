# METADATA
# title: Destructive operations
# description: |
#   Ready-made, and allows nothing by itself: include its ask and deny beside an allow of your own. Who is asked is the
#   resource's label `approvers`; see countersign.people.
#
#     ask contains rule if some rule in data.rules.destructive.ask
#     deny contains rule if some rule in data.rules.destructive.deny
package rules.destructive

import future.keywords.not

import data.countersign.http
import data.countersign.people

# Words in a path that mean that something is gone afterwards. "delete" by POST is as gone as by DELETE.
destroying := {
	"delete", "destroy", "drop", "erase", "expunge", "flush", "nuke",
	"purge", "shred", "terminate", "truncate", "uninstall", "wipe",
}

ask contains {
	"id": "destructive.delete",
	"reason": "deleting needs a person",
	"summary": sprintf("Delete %s", [http.short(input.http.path)]),
	"approvers": people.approvers,
} if {
	http.deletes
}

# Whatever the method: some APIs purge on GET.
ask contains {
	"id": "destructive.word",
	"reason": "the path speaks of destroying something, which needs a person",
	"approvers": people.approvers,
} if {
	some word in http.words
	word in destroying
}

# A whole collection rather than one thing: DELETE at the root or on /v1/users, or with a wildcard or filter.
deny contains {"id": "destructive.root", "reason": "deleting everything is not for agents"} if {
	http.deletes
	count([segment | some segment in input.http.segments; segment != ""]) < 2
}

deny contains {"id": "destructive.wildcard", "reason": "deleting by wildcard is not for agents"} if {
	http.deletes
	some segment in input.http.segments
	contains(segment, "*")
}

deny contains {"id": "destructive.wildcard", "reason": "deleting by wildcard is not for agents"} if {
	http.deletes
	some value in http.parameter({"all", "deleteall", "everything", "recursive", "force", "cascade"})
	not value in {"false", "0", "no", false, 0}
}
