package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

//go:generate go test -run ^TestInputSchemaFile$ -update .

// The input as Rego sees it. These structs exist to be a schema: the values themselves come from the operation
// (gate.Operation and the protocol's Detail), and tests hold the two together. A pointer may be null; `any` is whatever the
// token, the resource or the agent says; what is marked omitempty is not there for every operation. The doc tag becomes the
// description in the schema.
type (
	inputSchema struct {
		Principal principalSchema `json:"principal" doc:"who acts"`
		Resource  resourceSchema  `json:"resource" doc:"what is acted on, as the configuration names it"`
		HTTP      httpSchema      `json:"http" doc:"the request, for a resource of kind http"`
		Context   contextSchema   `json:"context" doc:"what changes between two attempts at the same operation; no approval binds to it"`
	}

	principalSchema struct {
		Issuer     string         `json:"issuer" doc:"who vouches for the principal"`
		Subject    string         `json:"subject" doc:"unique within the issuer"`
		ClientID   string         `json:"client_id" doc:"OAuth client that the token was issued to; may be empty"`
		Kind       string         `json:"kind" doc:"agent, workload or person"`
		Groups     []string       `json:"groups"`
		Roles      []string       `json:"roles"`
		OnBehalfOf partySchema    `json:"on_behalf_of,omitempty" doc:"the person acted for; not there when the principal acts for itself"`
		Actors     []partySchema  `json:"actors" doc:"chain of actors (RFC 8693), the current one first"`
		Claims     map[string]any `json:"claims" doc:"the token's own claims, less those that change with every token"`
	}

	partySchema struct {
		Issuer  string `json:"issuer"`
		Subject string `json:"subject"`
	}

	resourceSchema struct {
		Name   string         `json:"name"`
		Kind   string         `json:"kind"`
		Labels map[string]any `json:"labels"`
	}

	httpSchema struct {
		Method        string              `json:"method"`
		Scheme        string              `json:"scheme" doc:"how the agent connects, as Envoy knows it: http or https"`
		Host          string              `json:"host" doc:"lower case, without the port"`
		Authority     string              `json:"authority" doc:"the Host header or :authority as it came, port included"`
		RequestTarget string              `json:"request_target" doc:"path and query as they came, undecoded"`
		Path          string              `json:"path" doc:"the path as it came, without the query"`
		Segments      []string            `json:"segments" doc:"the parts of the path, percent-decoded once"`
		Query         map[string][]string `json:"query" doc:"every value of every parameter, decoded, in order"`
		Headers       map[string][]string `json:"headers" doc:"every value of every header that the target gets, names in lower case"`
		Trailers      map[string][]string `json:"trailers" doc:"every value of every trailer, names in lower case"`
		Body          any                 `json:"body,omitempty" doc:"the body when it is JSON; not there when it is not, or when it has several values"`
		Bodies        []any               `json:"bodies,omitempty" doc:"the values of a body of several, such as NDJSON, in order; rules about body are asked about each"`
		Form          map[string][]string `json:"form" doc:"every value of every field of a form body, decoded, in order"`
		Multipart     []partSchema        `json:"multipart,omitempty" doc:"the parts of a multipart body, in order; not there when it is none"`
		BodySHA256    string              `json:"body_sha256" doc:"in hex; empty when there is no body or it is streamed"`
		BodyBytes     int                 `json:"body_bytes"`
		BodyStreamed  bool                `json:"body_streamed" doc:"the body had not been read when policy was asked"`
	}

	partSchema struct {
		Name     string              `json:"name,omitempty"`
		Filename string              `json:"filename,omitempty" doc:"there when the part is a file"`
		Type     string              `json:"type" doc:"media type in lower case, without parameters; empty when the part has none"`
		Headers  map[string][]string `json:"headers" doc:"every header of the part, names in lower case"`
		Bytes    int                 `json:"bytes"`
		SHA256   string              `json:"sha256" doc:"in hex"`
		Value    string              `json:"value,omitempty" doc:"the text of a field, and of a file that is text of up to 64 KiB; not there for other parts"`
	}

	approvalSchema struct {
		ID        string        `json:"id"`
		Approvers []partySchema `json:"approvers"`
		Approved  string        `json:"approved" doc:"RFC 3339, UTC"`
	}

	contextSchema struct {
		Approval     approvalSchema `json:"approval,omitempty" doc:"people's yes to this very operation; there when policy is asked again because of it"`
		Time         string         `json:"time" doc:"RFC 3339, UTC, nine digits of fraction"`
		RequestID    string         `json:"request_id"`
		TraceParent  string         `json:"traceparent"`
		Peer         string         `json:"peer" doc:"address of the agent's connection"`
		Session      string         `json:"session"`
		TokenID      string         `json:"token_id"`
		TokenExpires string         `json:"token_expires" doc:"RFC 3339, or empty"`
	}
)

// InputSchema is the JSON Schema of the input that policies see, indented. policies/input.schema.json is a copy of it.
func InputSchema() []byte {
	schema := schemaOf(reflect.TypeFor[inputSchema]())
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "What Countersign's policies see as input"
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(schema); err != nil {
		panic(fmt.Sprintf("encode the input schema: %v", err)) // maps of text, always encodable
	}
	return out.Bytes()
}

// schemaOf leaves an object of free names without `properties`: OPA's type checker then takes any name.
func schemaOf(t reflect.Type) map[string]any {
	switch t.Kind() {
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Pointer:
		return map[string]any{"anyOf": []any{schemaOf(t.Elem()), map[string]any{"type": "null"}}}
	case reflect.Struct:
		properties := map[string]any{}
		for i := range t.NumField() {
			field := t.Field(i)
			property := schemaOf(field.Type)
			if doc := field.Tag.Get("doc"); doc != "" {
				property["description"] = doc
			}
			properties[memberName(field)] = property
		}
		return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	default:
		return map[string]any{}
	}
}

func memberName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

func mayBeMissing(f reflect.StructField) bool {
	return strings.HasSuffix(f.Tag.Get("json"), ",omitempty")
}

// inputNames are all names that the schema knows, for interning and for finding the ones it does not.
func inputNames(t reflect.Type, visit func(name string)) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		inputNames(t.Elem(), visit)
	case reflect.Struct:
		for i := range t.NumField() {
			visit(memberName(t.Field(i)))
			inputNames(t.Field(i).Type, visit)
		}
	default: // text and numbers have no names
	}
}
