package extproc

import (
	"math"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
	"github.com/countersign/countersign/extproc/wire"
)

// TestSureTransits: a transit record is not read before it is written, so it is canonical whatever Envoy says, and it is bounded.
func TestSureTransits(t *testing.T) {
	long := make([]byte, 4<<10)
	for _, text := range []string{"", "plain", "\x00\x1f\b\t\n\"\\/?q", "\xff\xfe", "ä€😀\u2028\ue000", string(long)} {
		for _, e := range []wire.Entry{
			{},
			{Connection: true, Tags: []wire.Field{{Name: ResourceTag, Value: text}}, Peer: text, Upstream: text, Flags: math.MaxUint64},
			{
				Operation: "op", Trace: text, Traced: true, Route: text, Peer: text, Upstream: text, Failure: text, WireSent: 1, Flags: wire.NoRouteFound,
				Duration: math.MaxInt64, Verb: text[:min(len(text), 20)], Authority: text, Path: text, RequestID: text, Details: text,
				Status: math.MaxUint32, BytesIn: math.MaxUint64, BytesOut: math.MaxInt64,
			},
			{Duration: time.Nanosecond, Flags: wire.UpstreamOverflow},
		} {
			body, err := readTransit(&e).AppendJSON(nil)
			if err != nil {
				t.Fatal(err)
			}
			o, err := strict.Object(body, 2)
			if err != nil {
				t.Fatalf("%s: %v", body, err)
			}
			if again, err := gate.AppendJSON(nil, o); err != nil || string(again) != string(body) {
				t.Errorf("%s\nis not\n%s, %v", body, again, err)
			}
			if len(body) > 14*gate.MaxClaimed {
				t.Errorf("it has %d bytes", len(body))
			}
			if _, told := o.Get("status"); told == e.Connection {
				t.Errorf("a connection has no status, and everything else has: %s", body)
			}
		}
	}
}
