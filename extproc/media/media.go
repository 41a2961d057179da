// Package media says how a body is read by its media type. Requests and answers go by this one list, so that what policy
// sees as JSON is redacted as JSON too.
//
// It is a list of what is known to be readable. What it does not have (CBOR, protobuf, images, archives) is bytes.
package media

import "strings"

// Kind is how a body is read.
type Kind uint8

const (
	Bytes   Kind = iota // not read
	JSON                // a JSON value (RFC 8259); some servers send several, one after another
	Lines               // JSON values, one a line
	Records             // JSON text sequences (RFC 7464): a record separator before each value, a newline after it
	Events              // an event stream (WHATWG HTML, section 9.2)
	Text                // text, whatever it says
	Markup              // text in which characters may be spelled as references: HTML, XML
)

// kinds are the types that have no telling suffix. Names that were never registered are here because they are sent.
var kinds = byName(map[Kind][]string{
	JSON: {
		"application/json", "text/json", "application/x-json", "text/x-json", "application/json-rpc", "application/jsonrequest",
		"application/json+fhir", "application/csp-report",
	},
	Lines: {
		"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl", "application/jsonlines",
		"application/x-jsonlines", "application/json-lines", "application/stream+json", "application/x-json-stream", "text/x-ndjson",
	},
	Records: {"application/json-seq"},
	Events:  {"text/event-stream"},
	Text: {
		"application/yaml", "application/x-yaml", "application/toml", "application/sql", "application/graphql", "application/csv",
		"application/javascript", "application/x-javascript", "application/ecmascript", "application/x-sh", "application/x-www-form-urlencoded",
	},
	Markup: {"application/xml", "application/xml-dtd", "application/xml-external-parsed-entity"},
})

func byName(lists map[Kind][]string) map[string]Kind {
	kinds := map[string]Kind{}
	for kind, names := range lists {
		for _, name := range names {
			kinds[name] = kind
		}
	}
	return kinds
}

// suffixes are those of structured syntaxes (RFC 6839), the longer ones first.
var suffixes = []struct {
	end  string
	kind Kind
}{
	{"+x-ndjson", Lines},
	{"+ndjson", Lines},
	{"+json-seq", Records},
	{"+json", JSON},
	{"+yaml", Text},
	{"+xml", Markup},
}

// KindOf returns how a body of this type is read. The type is in lower case and without parameters, as [mime.ParseMediaType]
// returns it.
func KindOf(media string) Kind {
	if kind, known := kinds[media]; known {
		return kind
	}
	for _, s := range suffixes {
		if strings.HasSuffix(media, s.end) {
			return s.kind
		}
	}
	switch {
	case strings.HasPrefix(media, "application/x-amz-json-"): // AWS: 1.0 and 1.1
		return JSON
	case !strings.HasPrefix(media, "text/"):
		return Bytes
	case strings.HasSuffix(media, "html"), strings.HasSuffix(media, "xml"):
		return Markup
	default:
		return Text
	}
}
