// Package http is the example of HTTP APIs behind Envoy: a configuration, policies with tests, and a story. It has no code
// but the tests that hold it to what it says; README.md tells how to run it.
package http
