package redact

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// TestWatch: each value of a watch leaves at once, with the newline that follows it, whatever its type says.
func TestWatch(t *testing.T) {
	p := plan(t, "$..token")
	s, err := p.Stream(jsonType, Options{Live: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, in := range []string{`{"type":"ADDED","object":{"token":"abc"}}` + "\n", `{"type":"MODIFIED","object":{"token":"abcdef"}}` + "\n"} {
		want := strings.NewReplacer(`"abc"`, `"[redacted]"`, `"abcdef"`, `"[redacted]"`).Replace(in)
		if out, err := s.Write([]byte(in)); err != nil || string(out) != want {
			t.Errorf("value %d: got %q, %v, want %q", i, out, err, want)
		}
		if s.Flows() != (i == 1) {
			t.Errorf("after value %d the stream says that it flows: %v", i, s.Flows())
		}
	}
	if out, err := s.Write([]byte("\n")); err != nil || string(out) != "\n" {
		t.Errorf("an empty line, which keeps the connection alive, gives %q, %v", out, err)
	}
	if out, err := s.Close(); err != nil || len(out) > 0 {
		t.Errorf("the end gives %q, %v", out, err)
	}
}

// TestLongStringsPass: a string that no detector looks at is written as it comes, so that it has no limit and is not kept.
func TestLongStringsPass(t *testing.T) {
	long := strings.Repeat(`\u00e9é `, 1<<19)
	in := `{"a":"` + long + `","ssn":"` + long + `","b":["` + long + `",1]}`
	want := strings.Replace(in, `"ssn":"`+long+`"`, `"ssn":"[redacted]"`, 1)
	p := plan(t, "$..ssn")
	for _, c := range []struct{ contentType, in, want string }{
		{jsonType, in, want},
		{"application/x-ndjson", in + "\n" + in + "\n", want + "\n" + want + "\n"},
		{"text/event-stream", "data: " + in + "\n\n", "data: " + want + "\n\n"},
	} {
		for _, n := range []int{4093, len(c.in)} {
			if got := each(t, p, c.contentType, c.in, n); got.Err != "" || got.Out != c.want {
				t.Errorf("%s, %d bytes at a time: got %d bytes, %s, want %d", c.contentType, n, len(got.Out), got.Err, len(c.want))
			}
		}
	}
	s, err := p.Stream(jsonType, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for c := range slices.Chunk([]byte(`["`+strings.Repeat(long, 4)), 16<<10) {
		if _, err := s.Write(c); err != nil {
			t.Fatal(err)
		}
		if s.Size() > 4<<20 {
			t.Fatalf("the stream holds %d bytes", s.Size())
		}
	}
	// What comes before an error does not depend on how it came.
	bad := `["` + strings.Repeat("a", 1<<20) + "\xff"
	if one, other := whole(t, p, jsonType, bad), each(t, p, jsonType, bad, 1000); one.Out != bad[:len(bad)-1] || !cmp.Equal(one, other) || one.Err == "" {
		t.Errorf("got %d bytes, %s, and in pieces %d, %s", len(one.Out), one.Err, len(other.Out), other.Err)
	}
	if got := whole(t, plan(t, "$..ssn", "email"), jsonType, in); !strings.Contains(got.Err, "a string of more than 1048576 bytes") {
		t.Errorf("a string that detectors would have to look through: %q", got.Err)
	}
}

// TestEventsThatAreWithheldAreCounted: what was left out of a stream is in the record.
func TestEventsThatAreWithheldAreCounted(t *testing.T) {
	got := whole(t, plan(t, "$.a"), "text/event-stream", "data: Jane Roe\n\ndata: {\"a\":1}\n\ndata: 219-09-9999\n\n")
	want := []gate.Count{{Name: "$.a", N: 1}, {Name: "event", N: 2}}
	if diff := cmp.Diff(want, got.Counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if strings.Contains(got.Out, "Jane") || strings.Contains(got.Out, "219") {
		t.Errorf("got %q", got.Out)
	}
}
