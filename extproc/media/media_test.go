package media

import "testing"

func TestKindOf(t *testing.T) {
	for kind, names := range map[Kind][]string{
		JSON: {
			"application/json", "text/json", "application/problem+json", "application/vnd.api+json", "application/hal+json", "application/x-amz-json-1.0",
			"application/x-amz-json-1.1", "application/json-patch+json", "application/merge-patch+json", "application/graphql-response+json",
			"application/json+fhir", "application/vnd.github.v3+json", "application/x-json",
		},
		Lines:   {"application/x-ndjson", "application/jsonl", "application/stream+json", "application/vnd.elasticsearch+x-ndjson"},
		Records: {"application/json-seq", "application/geo+json-seq"},
		Events:  {"text/event-stream"},
		Text:    {"text/plain", "text/csv", "application/yaml", "application/javascript", "application/vnd.oai.openapi+yaml", "application/x-www-form-urlencoded"},
		Markup:  {"text/html", "text/xml", "application/xml", "application/soap+xml", "application/xhtml+xml", "image/svg+xml"},
		Bytes: {
			"", "application/octet-stream", "application/cbor", "application/problem+cbor", "application/x-amz-cbor-1.1", "application/x-protobuf",
			"application/vnd.kubernetes.protobuf", "application/grpc", "application/msgpack", "application/x-jackson-smile", "application/json5x",
			"multipart/mixed", "image/png", "application/vnd.amazon.eventstream", "application/gzip", "application/jose",
		},
	} {
		for _, name := range names {
			if got := KindOf(name); got != kind {
				t.Errorf("%q is read as %d, not %d", name, got, kind)
			}
		}
	}
}
