package otlp

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/gate"
)

// members are those of a body.
func members(body string) evidence.Members { return evidence.Value(body).Members(nil) }

// spansOf are the spans of an operation.finished.
func spansOf(t *testing.T, j *joiner, e *evidence.Entry) []*tracepb.Span {
	t.Helper()
	it := j.item(e)
	spans := decoded(t, it).(*tracepb.ScopeSpans).Spans
	if !it.ended || int(it.elements) != len(spans) {
		t.Errorf("%d spans are said to be %d", len(spans), it.elements)
	}
	return spans
}

func TestTraceparent(t *testing.T) {
	for _, c := range []struct {
		name, in string
		ok       bool
	}{
		{"as it should be", traceparent, true},
		{"not sampled", strings.TrimSuffix(traceparent, "1") + "0", true},
		{"a later version with more", "01" + traceparent[2:] + "-more", true},
		{"nothing", "", false},
		{"version 0 with more", traceparent + "-more", false},
		{"the version that is none", "ff" + traceparent[2:], false},
		{"upper case", strings.ToUpper(traceparent), false},
		{"no trace", "00-" + strings.Repeat("0", 32) + traceparent[35:], false},
		{"no parent", traceparent[:36] + strings.Repeat("0", 16) + "-01", false},
		{"not hexadecimal", strings.Replace(traceparent, "7", "g", 1), false},
	} {
		if ok := parseTraceparent(&ids{}, []byte(c.in)); ok != c.ok {
			t.Errorf("%s: %v, want %v", c.name, ok, c.ok)
		}
	}
}

func TestIdsAreAnOperationsOwn(t *testing.T) {
	one := idsOf(&evidence.Entry{Op: "op-1", Hash: "aa"}, nil)
	again := idsOf(&evidence.Entry{Op: "op-1", Hash: "aa"}, evidence.Value(`"nonsense"`))
	retried := idsOf(&evidence.Entry{Op: "op-1", Hash: "bb"}, nil)
	other := idsOf(&evidence.Entry{Op: "op-2", Hash: "aa"}, nil)
	if one.trace != again.trace || one.span != again.span || one.remote() || again.remote() {
		t.Error("one record has two places in a trace")
	}
	if one.trace != retried.trace || one.span == retried.span {
		t.Error("two decisions on one operation are not two spans of one trace")
	}
	if one.trace == other.trace || one.flags&1 == 0 {
		t.Error("two operations are in one trace, or not sampled")
	}
}

func TestAttributesKeepWhatARecordSays(t *testing.T) {
	const body = `{"big":123456789012345678901234567890,"float":0.25,"int":-7,"list":["a",{"x":null}],"none":[],"null":null,` +
		`"own":{"masked":{"a.B":1},"rows":3,"said":"before"},"principal":{"$.x":null,"verified":{"method":"jwt"}},"redacted":{"$..Email":2},"seq":"another","text":"t"}`
	c := newConverter(kinds{"": {Protocol: "own"}})
	c.say, c.field = c.attribute, 6
	d := &decision{sample: sample{body: members(body)}}
	c.asked(d)
	c.b = c.b[:0]
	c.rest(d, &Kind{Protocol: "own"}, members(`{"own":{"said":1},"text":1}`))
	var log logspb.LogRecord
	if err := proto.Unmarshal(c.b, &log); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, kv := range log.Attributes {
		got = append(got, kv.Key+" "+strings.Join(strings.Fields(kv.Value.String()), " "))
	}
	want := []string{
		`countersign.big string_value:"123456789012345678901234567890"`,
		`countersign.float double_value:0.25`,
		`countersign.int int_value:-7`,
		`countersign.list array_value:{values:{string_value:"a"} values:{kvlist_value:{values:{key:"x"}}}}`,
		`countersign.own.masked array_value:{values:{kvlist_value:{values:{key:"name" value:{string_value:"a.B"}} values:{key:"value" value:{int_value:1}}}}}`,
		`countersign.own.rows int_value:3`,
		`countersign.principal.verified.method string_value:"jwt"`,
		`countersign.redacted array_value:{values:{kvlist_value:{values:{key:"name" value:{string_value:"$..Email"}} values:{key:"value" value:{int_value:2}}}}}`,
		`countersign.body.seq string_value:"another"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSpanNamesAreFew(t *testing.T) {
	few := Kind{Verb: func(string) string { return "ANY" }}
	for _, c := range []struct {
		kind       Kind
		verb, want string
	}{
		{few, "XPLOIT-123", "ANY payments"},
		{Kind{}, "SELECT", "SELECT payments"},
		{Kind{}, strings.Repeat("X", 40), "operation"},
	} {
		of := converter{}
		of.spanName(&c.kind, members(fmt.Sprintf(`{"resource":"payments","verb":%q}`, c.verb)))
		if got := string(of.b); got != c.want {
			t.Errorf("%s: %q, want %q", c.verb, got, c.want)
		}
	}
}

func TestAFinishedRecordWithoutItsDecisionIsStillASpan(t *testing.T) {
	e := &evidence.Entry{Seq: 9, Op: "op-1", Hash: "aa", Time: time.Unix(100, 0), Type: gate.OperationFinished, Body: []byte(`{"decided":3,"result":"target_failed"}`)}
	spans := spansOf(t, newJoiner(t.TempDir(), nil), e)
	if len(spans) != 1 || seqOf(spans[0].Attributes) != 9 || spans[0].Status.GetCode() == 0 {
		t.Errorf("spans %v", spans)
	}
}

// TestAHoldIsAChildOfItsOperation, from the first decision until it was released or handed over, once.
func TestAHoldIsAChildOfItsOperation(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(1000+int64(seconds), 0) }
	for _, c := range []struct {
		name    string
		decided int    // when the last decision was, after the request came
		body    string // of it
		ended   int
		want    string
	}{
		{"nobody was asked", 1, `{"effect":"allow"}`, 3, "policy 0-1, target 1-3"},
		{"approved during the hold", 11, `{"approval":"r1","effect":"allow","held":10}`, 13, "policy 0-1, hold 1-11, target 11-13"},
		{"rejected during the hold", 11, `{"approval":"r1","effect":"deny","held":10}`, 11, "policy 0-1, hold 1-11"},
		{"handed over", 1, `{"approval":"r1","effect":"ask"}`, 51, "policy 0-1, hold 1-51"},
		{"asked anew during the hold, and handed over", 21, `{"approval":"r2","effect":"ask","held":20}`, 51, "policy 0-1, hold 1-51"},
		{"nobody could be asked", 1, `{"effect":"ask"}`, 1, "policy 0-1"},
		{"a hold that is longer than the operation", 1, `{"approval":"r1","effect":"allow","held":10}`, 3, "policy 0-1, target 1-3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &evidence.Entry{Seq: 7, Op: "op-1", Hash: "aa", Time: at(c.decided), Type: gate.OperationDecided, Body: []byte(c.body)}
			j := newJoiner(t.TempDir(), nil)
			j.item(e)
			spans := spansOf(t, j, &evidence.Entry{
				Seq: 9, Op: "op-1", Hash: "bb", Time: at(c.ended), Type: gate.OperationFinished, Body: fmt.Appendf(nil, `{"decided":7,"duration":%d}`, c.ended),
			})
			var got []string
			ids := map[string]bool{}
			for _, s := range spans[1:] {
				if string(s.ParentSpanId) != string(spans[0].SpanId) || ids[string(s.SpanId)] {
					t.Errorf("%s is no child of the operation, or there twice", s.Name)
				}
				ids[string(s.SpanId)] = true
				got = append(got, fmt.Sprintf("%s %d-%d", s.Name, s.StartTimeUnixNano/1e9-1000, s.EndTimeUnixNano/1e9-1000))
			}
			if all := strings.Join(got, ", "); all != c.want {
				t.Errorf("the children are %s, want %s", all, c.want)
			}
		})
	}
}

func TestHost(t *testing.T) {
	for in, want := range map[string]string{"10.0.0.1:80": "10.0.0.1", "[::1]:80": "::1", "::1": "::1", "10.0.0.1": "10.0.0.1", "": ""} {
		if got := string(host([]byte(in))); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestRefusedDecisionsAreNotRememberedForEver(t *testing.T) {
	j := newJoiner(t.TempDir(), nil)
	for n := range uint64(3 * maxRefused) {
		j.item(&evidence.Entry{Seq: n + 1, Op: fmt.Sprint("op-", n), Type: gate.OperationDecided, Body: []byte(`{"effect":"deny"}`)})
	}
	if len(j.refused) > maxRefused || len(j.order) > maxRefused || len(j.allowed) > 0 {
		t.Errorf("remembers %d, %d and %d", len(j.refused), len(j.order), len(j.allowed))
	}
}
