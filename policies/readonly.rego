# METADATA
# title: Read-only
# description: |
#   Ready-made: `policy: readonly` for a resource that agents may read and nothing else. To take it into rules of your
#   own, include what it says:
#
#     allow contains rule if some rule in data.rules.readonly.allow
package rules.readonly

import data.countersign.http

allow contains {"id": "readonly.read"} if http.reads

# GET with a body: caches and servers differ on what it means, and some APIs act on it. A body that is streamed past the
# gateway is not seen here.
deny contains {"id": "readonly.body", "reason": "a read has no body here"} if {
	http.reads
	input.http.body_bytes > 0
}

deny contains {"id": "readonly.write", "reason": "this resource is read-only for agents"} if http.writes
