// Package policies is the starting set of Rego policies that Countersign ships, as files and as a file system. It holds
// no code: package policy loads and evaluates.
//
// Libraries (countersign.http, countersign.postgres, countersign.people) put what an operation does, and whom to ask, into
// words. The ready-made packages of rules, for resources of kind http, can be named by a resource (`policy: readonly`) or be
// included in rules of your own:
//
//	package rules.payments
//
//	import data.rules.destructive
//	import data.rules.personal_data
//
//	allow contains {"id": "clerks"} if "clerks" in input.principal.groups
//
//	ask contains rule if some rule in destructive.ask
//
//	deny contains rule if some rule in destructive.deny
//
//	redact contains what if some what in personal_data.redact
//
// Only rules.global counts without being named. What they are trusted with: they are a net, made of words that many APIs
// use; a rule that names the paths of your own API is always the better one. They cannot see what a streamed body says.
//
// input.schema.json describes the input; `go generate ./cmd/countersign` writes it from the Go types. The files work with
// the stock tools: opa fmt, opa test policies, opa check --strict --schema policies/input.schema.json policies.
package policies

import "embed"

// Files are the policies, their tests and the schema of the input.
//
//go:embed *.rego input.schema.json
var Files embed.FS
