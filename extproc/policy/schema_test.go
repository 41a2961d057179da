package policy

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// What an operation has and what the schema says are the same names with the same types.
func TestInputSchemaMatchesOperation(t *testing.T) {
	for _, call := range []web{get("v1"), {method: "POST", body: gate.Object{}}} {
		op := operation("payments", call)
		o, err := op.Object()
		if err != nil {
			t.Fatal(err)
		}
		input := append(slices.Clone(o), gate.Member{Name: "context", Value: op.Context.Object(op.Principal)})
		compareWithSchema(t, "input", input, inputType(httpKinds))
	}
}

// compareWithSchema reports where o and the schema differ.
func compareWithSchema(t *testing.T, at string, o gate.Object, schema reflect.Type) {
	t.Helper()
	for i := range schema.NumField() {
		field := schema.Field(i)
		if _, ok := o.Get(memberName(field)); !ok && !mayBeMissing(field) {
			t.Errorf("%s has no %s", at, memberName(field))
		}
	}
	for _, m := range o {
		field, ok := fieldNamed(schema, m.Name)
		if !ok {
			t.Errorf("%s.%s is not in the schema", at, m.Name)
			continue
		}
		want := field.Type
		if want.Kind() == reflect.Pointer {
			want = want.Elem()
		}
		object, isObject := m.Value.(gate.Object)
		if isObject && want.Kind() == reflect.Struct {
			compareWithSchema(t, at+"."+m.Name, object, want)
		}
		if !hasKind(m.Value, want) {
			t.Errorf("%s.%s is a %T, in the schema a %s", at, m.Name, m.Value, want)
		}
	}
}

func hasKind(v any, want reflect.Type) bool {
	if want.Kind() == reflect.Interface {
		return true
	}
	switch v.(type) {
	case string:
		return want.Kind() == reflect.String
	case bool:
		return want.Kind() == reflect.Bool
	case int, int64, json.Number:
		return want.Kind() == reflect.Int
	case []string, []any:
		return want.Kind() == reflect.Slice
	case gate.Object:
		return want.Kind() == reflect.Map || want.Kind() == reflect.Struct
	default:
		return false
	}
}
