// Package envoy holds ready-made Envoy files, for teams that run an Envoy of their own. README.md says which is for whom.
//
// They are made by `countersign envoy bootstrap` and `countersign envoy static` from the configurations in testdata, and a
// test holds the one to the other, so that they show what this version makes. The same test takes each of them apart:
// whatever makes one of them let a request through without a decision is something that `countersign check` reports.
package envoy

import "embed"

// Files are the ready-made files by name.
//
//go:embed *.yaml
var Files embed.FS
