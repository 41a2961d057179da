package web

import (
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// SDK, in [Options.Volatile], stands for the fields that client libraries and tracing agents add by themselves, with another
// value each time.
const SDK = "sdk"

// alwaysVolatile are trace context and the ids of one attempt. Every other field that reaches a target is in the digest, even
// User-Agent and Accept-Encoding: a target can act on any of them.
var alwaysVolatile = fieldSet(
	"traceparent", "tracestate", "baggage", // W3C
	"b3", "x-b3-*", "x-cloud-trace-context", "x-amzn-trace-id", "uber-trace-id", "uberctx-*", "x-ot-span-context", "grpc-trace-bin",
	"x-request-id", "x-correlation-id", "request-id", "correlation-id",
	"x-envoy-*",         // Envoy's own
	"x-forwarded-proto", // the same as the scheme, which is in the digest
)

var sdkVolatile = fieldSet(
	"sentry-trace", "x-datadog-*", "newrelic", "x-newrelic-*", "elastic-apm-traceparent", "x-instana-*", "x-dynatrace", "x-honeycomb-trace", "ot-tracer-*", "sw8", "sw8-*",
	"x-ms-client-request-id", "x-ms-correlation-request-id", "client-request-id", "x-client-request-id",
	"amz-sdk-*",         // invocation id, attempt
	"x-goog-api-client", // has an invocation id and the number of the attempt
	"x-stainless-*",     // the SDKs of OpenAI, Anthropic and others
	"x-stripe-client-telemetry",
)

// fields are names of header fields, and prefixes of names.
type fields struct {
	names    map[string]bool
	prefixes []string
}

// fieldSet takes names, and prefixes that end in a star.
func fieldSet(elements ...string) (f fields) {
	f.names = map[string]bool{}
	for _, e := range elements {
		if prefix, isPrefix := strings.CutSuffix(e, "*"); isPrefix {
			f.prefixes = append(f.prefixes, prefix)
		} else {
			f.names[e] = true
		}
	}
	return f
}

func (f *fields) has(name string) bool { return f.names[name] || hasPrefix(f.prefixes, name) }

// hasPrefix reports whether name begins with one of prefixes.
func hasPrefix(prefixes []string, name string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// volatile reports whether a header field may differ between two attempts at the same operation.
func (o *Options) volatile(name string) bool {
	switch {
	case alwaysVolatile.has(name):
		return true
	case asksLess(name): // also where a prefix covers it
		return false
	}
	return isNamed(o.Volatile, name) || sdkVolatile.has(name) && slices.Contains(o.Volatile, SDK)
}

// CheckVolatile says why an element cannot be in [Options.Volatile], or returns nil. It must be a name in lower case or a
// prefix, and must not cover a field that makes another operation of a request: every approval has to bind those.
func CheckVolatile(element string) error {
	if element == SDK {
		return nil
	}
	name, isPrefix := strings.CutSuffix(element, "*")
	if !isFieldName(name) || strings.ContainsAny(name, ":_*") || isPrefix && !strings.HasSuffix(name, "-") {
		return fmt.Errorf("is %q: write the name of a header field, a prefix such as x-trace-*, or sdk", element)
	}
	for _, table := range []struct {
		what string
		has  func(name string) bool
	}{
		{"says who the client is or has a credential", Identity},
		{"changes the method or the path", overridesRequest},
		{"says how the request is carried", func(n string) bool { return framing[n] }},
		{"says what is asked for", func(n string) bool { return singular[n] || asksLess(n) }},
	} {
		if table.has(name) || isPrefix && slices.ContainsFunc(named(), func(n string) bool { return strings.HasPrefix(n, name) && table.has(n) }) {
			return fmt.Errorf("is %q, and such a field %s: an approval has to bind it", element, table.what)
		}
	}
	return nil
}

// named returns the names and prefixes in the tables that CheckVolatile looks at.
func named() []string {
	names := slices.Clone(identityPrefixes)
	for _, table := range []map[string]bool{coded, identityNames, actingNames, overrides, framing, singular} {
		for n := range table {
			names = append(names, n)
		}
	}
	return names
}

// Volatile returns what may differ between two attempts at the same operation.
func (r *Request) Volatile() gate.Object {
	if len(r.VolatileHeaders) == 0 {
		return nil
	}
	return gate.Object{{Name: "headers", Value: r.VolatileHeaders}}
}

// Recorded returns nothing: a record has the verb and the target of a request, and needs no more.
func (*Request) Recorded() gate.Object { return nil }
