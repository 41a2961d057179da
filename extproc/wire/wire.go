// Package wire reads what Envoy sends, and of that what is read here: [Check], [Request] and [Logs] are the messages of ext_authz,
// ext_proc and the access log. They have no field that nobody reads, and nobody can read what is not filled.
//
// Envoy sends some fifty fields in each, and protobuf's own decoder makes an object, or a few, of most of them. Here the bytes are
// walked once, by tables that are made of the same descriptors (reader), and what is read is copied out of them: no message shares
// memory with the buffer that it came in.
//
// # Two readers, one meaning
//
// What passes must be what protobuf's decoder makes of it: the agent chooses much of what is in a message, and an Envoy of another
// build how it is written. So this reader knows only what Envoy writes. A field that a message has twice, two of a oneof, a wire type
// that is not the field's, text that is no UTF-8, a group, bytes that end early: each of these, also in what nobody looks at, ends
// it, and the generated decoder reads the whole message instead, refuses it or not, and says what is in it. FuzzReadsAsGenerated holds that both
// agree wherever this one comes to an end, and that this one never does where the other refuses.
//
// Measured on two shared cores with what Envoy 1.40 sends (BenchmarkUnmarshal):
//
//	                    generated             here
//	CheckRequest        FIGURES
package wire

import "github.com/countersign/countersign/extproc/inspect/web"

// Message is what gRPC's codec reads a message of Envoy's into.
type Message interface {
	// Unmarshal reads b, and keeps nothing of it.
	Unmarshal(b []byte) error
}

// common are texts that most requests have, so that they need no memory of their own.
var common = map[string]string{}

const longestCommon = 32

func init() {
	for _, s := range []string{
		":authority", ":method", ":path", ":scheme", ":status", ":protocol",
		"accept", "accept-encoding", "accept-language", "authorization", "cache-control", "connection", "content-encoding", "content-length",
		"content-type", "cookie", "date", "etag", "last-modified", "location", "origin", "referer", "server", "set-cookie", "te",
		"traceparent", "transfer-encoding", "user-agent", "vary", "x-envoy-expected-rq-timeout-ms", "x-envoy-upstream-service-time",
		"x-forwarded-for", "x-forwarded-proto", "x-request-id",
		"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "http", "https", "200", "application/json", "*/*", "via_upstream",
	} {
		common[s] = s
	}
}

// Field is a header field.
type Field = web.Field

// headerMap reads a config.core.v3.HeaderMap. Values come in raw_value; value is empty then, and the other way round.
func headerMap(m reader, into []Field) []Field {
	for m.next() {
		if m.num != 1 { // headers
			continue
		}
		var f Field
		for h := m.message(); h.next(); {
			switch h.num {
			case 1: // key
				f.Name = h.text()
			case 2: // value
				if f.Value == "" {
					f.Value = h.text()
				}
			case 3: // raw_value
				if len(h.value) > 0 {
					f.Value = h.text()
				}
			}
		}
		into = append(into, f)
	}
	return into
}
