package otlp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

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

// TestWhatCameBeforeChangesNothing: a record is sent as if it had come alone, however much of the one before says the same.
func TestWhatCameBeforeChangesNothing(t *testing.T) {
	bodies := []string{
		`{"effect":"allow","http":{"a":1},"n":1,"principal":{"name":"a"},"protocol":"http"}`,
		`{"effect":"allow","http":{"a":1},"n":12,"principal":{"name":"a"},"protocol":"http"}`,
		`{"effect":"allow","http":{"a":1},"n":1,"principal":{"name":"a"},"protocol":"tcp"}`,
		`{"effect":"allow","http":{"a":1},"n":1,"principal":{"name":"b"}}`,
		`{"effect":"allow","n":1,"principal":{"name":"a"},"protocol":"http","verb":""}`,
		`{}`,
	}
	entry := func(seq int, kind, body string) *evidence.Entry {
		return &evidence.Entry{Seq: uint64(seq), Type: kind, Op: "op", Hash: "aa", Time: time.Unix(int64(1000+seq), 0), Body: []byte(body)}
	}
	operation := func(seq int, kind, body string) []*evidence.Entry { // its end has what only one of the kinds takes apart
		end := fmt.Sprintf(`{"decided":%d,"http":{"b":1},"status":200}`, seq)
		return []*evidence.Entry{entry(seq, kind, body), entry(seq+1, gate.OperationFinished, end)}
	}
	for _, kind := range []string{gate.OperationDecided, gate.OperationFinished, gate.OperationUnknown, gate.Transit} {
		for _, before := range bodies {
			for _, body := range bodies {
				alone, after := newJoiner(t.TempDir(), kindsOf([]Kind{said})), newJoiner(t.TempDir(), kindsOf([]Kind{said}))
				for _, e := range operation(1, kind, before) {
					after.item(e)
				}
				for _, e := range operation(3, kind, body) {
					if want, got := alone.item(e).encoded, after.item(e).encoded; !bytes.Equal(want, got) {
						t.Errorf("%s of %s, the %s after %s:\n%q, want\n%q", kind, body, e.Type, before, got, want)
					}
				}
			}
		}
	}
}

// TestMemoryAndFilesAreSentAlike: a request for records that come from memory has the same bytes as one for records that are read from
// files, so that what is sent again after a restart is identical.
func TestMemoryAndFilesAreSentAlike(t *testing.T) {
	c := newCollector(t)
	f := newFixture(t, c)
	memory := f.journal.Reader(1)
	if _, err := memory.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for n := range 50 {
		d := f.decided(fmt.Sprint("op-", n), gate.Effect(n%3), traceparent)
		f.events(1)
		f.finished(fmt.Sprint("op-", n), d.Seq)
	}
	client, err := newClient(f.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	requests := func(r *evidence.Reader) (all [2][]byte) {
		defer r.Close()
		j := newJoiner(f.journal.Dir(), kindsOf(f.opts.Kinds))
		var logs, spans []*item
		for range 150 {
			e, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if it := j.item(&e); it.ended {
				spans = append(spans, it)
			} else {
				logs = append(logs, it)
			}
		}
		return [2][]byte{(&payload{client, logs}).appendTo(nil), (&payload{client, spans}).appendTo(nil)}
	}
	if a, b := requests(memory), requests(evidence.NewReader(f.journal.Dir(), 1, nil)); !bytes.Equal(a[0], b[0]) || !bytes.Equal(a[1], b[1]) {
		t.Error("requests differ")
	} else if len(a[0]) < 10_000 || proto.Unmarshal(a[0], &collogspb.ExportLogsServiceRequest{}) != nil {
		t.Error("a request cannot be read")
	}
}
