package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// Kind is what policies see of the operations on a kind of resource. This package knows no protocol but by these.
type Kind struct {
	Name string // of the kind, and of the member of the input that has the detail
	Doc  string // what that member is

	// Detail is a struct that is the schema of the detail. A field's json tag is the member's name, and what is marked omitempty is
	// not there for every operation; its doc tag is the description in the schema; its words tag has values that are usual,
	// which are then made once. A pointer may be null; `any` is whatever the agent says.
	Detail any

	// Body and Bodies are the members of the detail that are one value, and a list of several: what rules say of the one counts for
	// the other. They are empty for a kind that has no such two.
	Body, Bodies string

	// Redact are the selectors by which what comes back can be redacted; none where it is not read.
	Redact []gate.Selector

	// Limit are the limits that are kept; none where nothing can be cut short.
	Limit []gate.Limit
}

// The input as Rego sees it, less the detail. These structs exist to be a schema, as Kind.Detail does: the values themselves come
// from the operation (gate.Operation and the protocol's Detail), and tests hold the two together.
type (
	inputSchema struct {
		Principal principalSchema `json:"principal" doc:"who acts"`
		Resource  resourceSchema  `json:"resource" doc:"what is acted on, as the configuration names it"`
		Context   contextSchema   `json:"context" doc:"what changes between two attempts at the same operation; no approval binds to it"`
	}

	principalSchema struct {
		Issuer     string         `json:"issuer" doc:"who vouches for the principal"`
		Subject    string         `json:"subject" doc:"unique within the issuer"`
		ClientID   string         `json:"client_id" doc:"OAuth client that the token was issued to; may be empty"`
		Kind       string         `json:"kind" words:"agent workload person" doc:"agent, workload or person"`
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

// inputType is the type of the whole input, with the details of all kinds: an operation has one of them.
func inputType(kinds []Kind) reflect.Type {
	base := reflect.TypeFor[inputSchema]()
	fields := []reflect.StructField{base.Field(0), base.Field(1)}
	for i, k := range kinds {
		fields = append(fields, reflect.StructField{
			Name: fmt.Sprintf("Kind%d", i), Type: reflect.TypeOf(k.Detail),
			Tag: reflect.StructTag(fmt.Sprintf("json:%q doc:%q", k.Name, k.Doc)),
		})
	}
	return reflect.StructOf(append(fields, base.Field(2)))
}

// InputSchema is the JSON Schema of the input that policies see, indented. policies/input.schema.json is a copy of it.
func InputSchema(kinds []Kind) []byte { return schemaText(inputType(kinds)) }

func schemaText(input reflect.Type) []byte {
	schema := schemaOf(input)
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

// inputNames are all names and usual values that the schema knows, for making them once.
func inputNames(t reflect.Type, visit func(name string)) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		inputNames(t.Elem(), visit)
	case reflect.Struct:
		for i := range t.NumField() {
			visit(memberName(t.Field(i)))
			for word := range strings.FieldsSeq(t.Field(i).Tag.Get("words")) {
				visit(word)
			}
			inputNames(t.Field(i).Type, visit)
		}
	default: // text and numbers have no names
	}
}
