package otlp

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
)

// FuzzEncode: whatever a record says is OTLP that the generated types read, and its attributes have the values of the record.
func FuzzEncode(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"a":""}`, `{"a":[[],{},null,"",0,-1,1.5,true,{"\"":1}]}`, `{"a":{"b":{"c":[{"d":"é\n"}]}},"principal":{"verified":{"x":1e300}}}`,
		`{"big":123456789012345678901234567890,"near":0.1234567890123456789,"node":"x","protocol":"http"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tree, err := strict.Object(text, 64)
		if err != nil {
			return
		}
		body, err := gate.AppendJSON(nil, tree)
		if err != nil {
			return
		}
		for _, kind := range []string{gate.Alarm, gate.OperationDecided, gate.OperationFinished, gate.OperationUnknown} {
			j := newJoiner(t.TempDir(), kindsOf([]Kind{said}))
			m := decoded(t, j.item(&evidence.Entry{Seq: 1, Type: kind, Op: "op", Hash: "aa", Time: time.Unix(1000, 0), Body: body}))
			log, ok := m.(*logspb.ScopeLogs)
			if !ok || kind != gate.Alarm {
				continue
			}
			for _, member := range tree {
				if _, isObject := member.Value.(gate.Object); isObject {
					continue // a list of names and values, or attributes of its own
				}
				name := "countersign." + member.Name
				if isReserved([]byte(member.Name)) {
					name = "countersign.body." + member.Name
				}
				want := plain(member.Value)
				if want == "" || want == nil || cmp.Equal(want, []any{}) {
					continue
				}
				if diff := cmp.Diff(want, read(attribute(log.LogRecords[0].Attributes, name))); diff != "" {
					t.Errorf("%s of %s (-want +got):\n%s", name, body, diff)
				}
			}
		}
	})
}

// plain is what OTLP can say of a value: what is empty is nothing, and a number is its digits.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		text, _, err := gate.AppendNumber(nil, string(v))
		if err != nil {
			return nil
		}
		return string(text)
	case []any:
		list := []any{}
		for _, e := range v {
			list = append(list, plain(e))
		}
		if len(list) == 0 {
			return nil
		}
		return list
	case gate.Object:
		object := map[string]any{}
		for _, m := range v {
			object[m.Name] = plain(m.Value)
		}
		return object
	case string:
		if v == "" {
			return nil
		}
		return v
	default:
		return v
	}
}

func read(v *commonpb.AnyValue) any {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_BoolValue:
		return v.BoolValue
	case *commonpb.AnyValue_IntValue:
		text, _ := gate.AppendJSON(nil, v.IntValue)
		return string(text)
	case *commonpb.AnyValue_DoubleValue:
		text, _ := gate.AppendJSON(nil, v.DoubleValue)
		return string(text)
	case *commonpb.AnyValue_ArrayValue:
		list := []any{}
		for _, e := range v.ArrayValue.Values {
			list = append(list, read(e))
		}
		return list
	case *commonpb.AnyValue_KvlistValue:
		object := map[string]any{}
		for _, kv := range v.KvlistValue.Values {
			object[kv.Key] = read(kv.Value)
		}
		return object
	default:
		return nil
	}
}
