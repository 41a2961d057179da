package gate_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/google/go-cmp/cmp"
)

func full() *gate.Principal {
	return &gate.Principal{
		Issuer: "https://idp.example.com", Subject: "agent-7", ClientID: "crm-agent", Kind: "agent",
		Groups: []string{"readers", "pii-reader"}, Roles: []string{"clerk"},
		OnBehalfOf: &gate.Party{Issuer: "https://idp.example.com", Subject: "ana"},
		Actors:     []gate.Party{{Issuer: "https://idp.example.com", Subject: "agent-7"}},
		Claims:     gate.Object{{Name: "tid", Value: "t-1"}, {Name: "ver", Value: json.Number("2.0")}},
		Verified:   gate.Verification{Method: "oidc", Algorithm: "RS256", KeyID: "k1", TokenID: "j1", Expires: time.Unix(1_700_000_600, 0)},
	}
}

func TestInputIsCanonicalAndComplete(t *testing.T) {
	op := operation()
	op.Principal = full()
	op.Resource.Labels = gate.Object{{Name: "data", Value: "pii"}}
	got, err := op.Input()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"http":{"body":null,"headers":{"accept":["*/*"]},"method":"GET","request_target":"/v1/payments?a=1&b=2"},` +
		`"principal":{"actors":[{"issuer":"https://idp.example.com","subject":"agent-7"}],"claims":{"tid":"t-1","ver":2},"client_id":"crm-agent",` +
		`"groups":["readers","pii-reader"],"issuer":"https://idp.example.com","kind":"agent","on_behalf_of":{"issuer":"https://idp.example.com","subject":"ana"},` +
		`"roles":["clerk"],"subject":"agent-7"},"resource":{"kind":"http","labels":{"data":"pii"},"name":"payments"}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if c := canonical(t, string(got)); c != string(got) {
		t.Errorf("the input is not canonical: %s", c)
	}
	again, _ := op.Input()
	if &again[0] != &got[0] {
		t.Error("the input was made twice")
	}
}

// Promise 5: an approval is for these bytes. One changed byte is another digest; a renewed token is not.
func TestDigestBindsTheOperation(t *testing.T) {
	with := func(name string, v any) func(*gate.Operation) {
		return func(op *gate.Operation) {
			d := op.Detail.(detail)
			for i := range d.object {
				if d.object[i].Name == name {
					d.object[i].Value = v
				}
			}
		}
	}
	base := func() *gate.Operation {
		op := operation()
		op.Principal = full()
		return op
	}
	digest := func(t *testing.T, change func(*gate.Operation)) string {
		t.Helper()
		op := base()
		change(op)
		d, err := op.Digest(key)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := digest(t, func(*gate.Operation) {})
	for _, c := range []struct {
		name   string
		same   bool
		change func(*gate.Operation)
	}{
		{"another attempt", true, func(op *gate.Operation) { op.ID = "other" }},
		{"another time, peer, request id and trace", true, func(op *gate.Operation) {
			op.Context = gate.Context{Time: time.Now(), RequestID: "r", TraceParent: "t", Peer: "p", Session: "s"}
		}},
		{"a renewed token", true, func(op *gate.Operation) {
			op.Principal.Verified = gate.Verification{Method: "oidc", Algorithm: "ES256", KeyID: "k2", TokenID: "j2", Expires: time.Unix(1_800_000_000, 0)}
		}},
		{"one header more", false, with("headers", gate.Object{{Name: "accept", Value: []string{"*/*"}}, {Name: "x", Value: []string{""}}})},
		{"a header twice", false, with("headers", gate.Object{{Name: "accept", Value: []string{"*/*", "*/*"}}})},
		{"two header values in one", false, with("headers", gate.Object{{Name: "accept", Value: []string{"*/*,*/*"}}})},
		{"another order of the query", false, with("request_target", "/v1/payments?b=2&a=1")},
		{"one byte of the body", false, with("body", "x")},
		{"another method", false, with("method", "DELETE")},
		{"another subject", false, func(op *gate.Operation) { op.Principal.Subject = "agent-8" }},
		{"another issuer", false, func(op *gate.Operation) { op.Principal.Issuer += "/" }},
		{"another person acted for", false, func(op *gate.Operation) { op.Principal.OnBehalfOf.Subject = "bob" }},
		{"nobody acted for", false, func(op *gate.Operation) { op.Principal.OnBehalfOf = nil }},
		{"another actor", false, func(op *gate.Operation) { op.Principal.Actors = nil }},
		{"another group", false, func(op *gate.Operation) { op.Principal.Groups = []string{"readers"} }},
		{"another claim", false, func(op *gate.Operation) { op.Principal.Claims[0].Value = "t-2" }},
		{"another resource", false, func(op *gate.Operation) { op.Resource.Name = "refunds" }},
		{"another label", false, func(op *gate.Operation) { op.Resource.Labels = gate.Object{{Name: "a", Value: "b"}} }},
		{"another protocol's detail", false, func(op *gate.Operation) { op.Detail = detail{"git", op.Detail.Object(), nil} }},
		{"another value of what is volatile", true, func(op *gate.Operation) {
			op.Detail = detail{"http", op.Detail.Object(), gate.Object{{Name: "headers", Value: gate.Object{{Name: "traceparent", Value: []string{"t"}}}}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := digest(t, c.change); (got == first) != c.same {
				t.Errorf("same digest: %v, want %v", got == first, c.same)
			}
		})
	}
}

// Policy sees what no approval binds, in its place, and once.
func TestSeenIsTheInputAndWhatIsVolatile(t *testing.T) {
	op := operation()
	bound := op.Detail.Object()
	fields := func(names ...string) gate.Object {
		o := gate.Object{}
		for _, n := range names {
			o = append(o, gate.Member{Name: n, Value: []string{"v"}})
		}
		return gate.Object{{Name: "headers", Value: o}}
	}
	op.Detail = detail{"http", bound, fields("a-trace", "x-id")}
	seen, err := op.Seen()
	if err != nil {
		t.Fatal(err)
	}
	input, _ := op.Input()
	want := strings.Replace(string(input), `"headers":{"accept":["*/*"]}`, `"headers":{"a-trace":["v"],"accept":["*/*"],"x-id":["v"]}`, 1)
	if got, err := seen.AppendJSON(nil); err != nil || string(got) != want || want == string(input) {
		t.Errorf("error %v\n%s", err, cmp.Diff(want, string(got)))
	}
	op.Detail = detail{"http", bound, nil}
	if seen, err = op.Seen(); err != nil || !cmp.Equal(seen, must(op.Object())) {
		t.Errorf("without anything volatile policy sees %v, error %v", seen, err)
	}
	for _, c := range []struct {
		name     string
		volatile gate.Object
	}{
		{"a name that is bound too", fields("accept")},
		{"names out of order", fields("b", "a")},
		{"a name twice", fields("b", "b")},
		{"text that is not UTF-8", fields("\xff")},
		{"a member that is not there", gate.Object{{Name: "query", Value: gate.Object{{Name: "a", Value: "b"}}}}},
		{"a member that is no object", gate.Object{{Name: "method", Value: gate.Object{{Name: "a", Value: "b"}}}}},
		{"another value in a member's place", gate.Object{{Name: "headers", Value: "none"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			op := operation()
			op.Detail = detail{"http", bound, c.volatile}
			if seen, err := op.Seen(); err == nil {
				t.Errorf("policy sees %v", seen)
			}
		})
	}
}

func must(o gate.Object, err error) gate.Object {
	if err != nil {
		panic(err)
	}
	return o
}

// In Rego null is true: `not input.principal.on_behalf_of` has to hold where nobody is acted for.
func TestWhatIsNotThereIsLeftOut(t *testing.T) {
	input, err := operation().Input()
	if err != nil || bytes.Contains(input, []byte("on_behalf_of")) {
		t.Errorf("%s, %v", input, err)
	}
	if _, found := (gate.Context{}).Object(nil).Get("approval"); found {
		t.Error("the context has an approval")
	}
}

func TestDigestIsKeyed(t *testing.T) {
	op := operation()
	a, _ := op.Digest(key)
	b, _ := op.Digest([]byte("fedcba9876543210"))
	if a == b || len(a) != 64 {
		t.Errorf("digests %s and %s", a, b)
	}
	for _, short := range [][]byte{nil, {}, key[:15]} {
		if d, err := op.Digest(short); err == nil {
			t.Errorf("a key of %d bytes gave %s", len(short), d)
		}
	}
}

// TestASealedPrincipalIsBoundAsItIs: what was written of a principal is what it says, and is not a changed copy's. Digests with two keys
// in turns are each their own key's.
func TestASealedPrincipalIsBoundAsItIs(t *testing.T) {
	keys := [][]byte{key, []byte("fedcba9876543210")}
	check := func(what string, op *gate.Operation) (input string) {
		t.Helper()
		text, err := must(op.Object()).AppendJSON(nil)
		written, again := op.Input()
		if err != nil || again != nil || !bytes.Equal(text, written) {
			t.Fatalf("%s: the input is %s and the object %s; %v, %v", what, written, text, again, err)
		}
		for _, k := range slices.Concat(keys, keys) {
			mac := hmac.New(sha256.New, k)
			mac.Write(text)
			if d, err := op.Digest(k); err != nil || d != hex.EncodeToString(mac.Sum(nil)) {
				t.Fatalf("%s: the digest is %s of %s; %v", what, d, text, err)
			}
		}
		return string(text)
	}
	with := func(p *gate.Principal) *gate.Operation {
		op := operation()
		op.Principal = p
		return op
	}
	p := full()
	open := check("before", with(p))
	if err := p.Seal(); err != nil {
		t.Fatal(err)
	}
	if sealed := check("sealed", with(p)); sealed != open {
		t.Errorf("sealed it is %s, and else %s", sealed, open)
	}
	changed := *p
	changed.Groups = []string{"admins"}
	if text := check("a changed copy", with(&changed)); text == open || !strings.Contains(text, "admins") {
		t.Errorf("a copy that was changed is %s", text)
	}
	changed.Claims = gate.Object{{Name: "n", Value: json.Number("x")}}
	if err := changed.Seal(); err == nil {
		t.Error("claims that have no canonical form were sealed")
	}
}

func TestContextIsCanonicalAndBesideTheInput(t *testing.T) {
	c := gate.Context{Time: time.Unix(1_700_000_000, 5).In(time.FixedZone("x", 3600)), Peer: "192.0.2.1:5", RequestID: "r", Session: "s", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	b, err := c.Object(full()).AppendJSON(nil)
	const want = `{"peer":"192.0.2.1:5","request_id":"r","session":"s","time":"2023-11-14T22:13:20.000000005Z","token_expires":"2023-11-14T22:23:20.000000000Z","token_id":"j1","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}`
	if diff := cmp.Diff(want, string(b)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if c.TraceID() != "0af7651916cd43dd8448eb211c80319c" || (gate.Context{TraceParent: "00-short"}).TraceID() != "" {
		t.Errorf("trace ids %q and %q", c.TraceID(), gate.Context{TraceParent: "00-short"}.TraceID())
	}
	if _, err := (gate.Context{}).Object(nil).AppendJSON(nil); err != nil {
		t.Errorf("the context of nobody: %v", err)
	}
}

// Records are written by hand, member by member; they have to come out as the canonical encoder would write them.
func TestRecordsAreCanonical(t *testing.T) {
	awkward := "\xff\"\\\u0001\u2028😀"
	for _, c := range []struct {
		name string
		body gate.Body
	}{
		{"an empty decision", &gate.Decision{}},
		{"a full decision", decision()},
		{"a decision with awkward text", &gate.Decision{
			Rules: []string{awkward}, Reasons: []string{awkward, ""}, Resource: awkward, Protocol: awkward, Verb: awkward, Target: awkward, Effect: 9,
			Principal: &gate.Principal{
				Subject: awkward, Name: awkward, OnBehalfOf: &gate.Party{Subject: awkward}, OnBehalfOfName: awkward,
				Actors: []gate.Party{{Subject: awkward}, {Subject: awkward}}, ActorNames: []string{awkward},
			},
			Context: gate.Context{TraceParent: strings.Repeat(awkward, 9), Peer: awkward, RequestID: awkward, Session: awkward},
			Redact:  []gate.Redaction{{Path: awkward}, {Detect: awkward, With: gate.Replacement(awkward)}}, Approval: awkward,
		}},
		{"an empty outcome", &gate.Outcome{}},
		{"a decision with a kind's own first", &gate.Decision{Own: gate.Member{Name: "aa", Value: gate.Object{{Name: "b", Value: 1}, {Name: "c", Value: "\"\u2028😀"}}}}},
		{"a decision with a kind's own within", &gate.Decision{Held: time.Second, Own: gate.Member{Name: "git", Value: gate.Object{{Name: "updates", Value: []any{}}}}}},
		{"a decision with a kind's own last", &gate.Decision{Own: gate.Member{Name: "zz", Value: gate.Object{}}}},
		{"an outcome with a kind's own", &gate.Outcome{Own: gate.Member{Name: "postgres", Value: gate.Object{{Name: "rows", Value: 3}}}}},
		{"a full outcome", &gate.Outcome{
			Result: gate.WithheldBy, Reason: awkward, Problem: gate.Withheld, Status: 502, BytesIn: 1 << 40, BytesOut: 7, BodySHA256: "ab", Decided: 12,
			Duration: 1234567 * time.Nanosecond, Redacted: []gate.Count{{Name: "\ufb33", N: 1}, {Name: "😀", N: 2}, {Name: "$..a", N: 3}, {Name: "\xff", N: 1}, {Name: "\xfe", N: 1}},
		}},
		{"an outcome of nanoseconds", &gate.Outcome{Duration: 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := c.body.AppendJSON([]byte("kept"))
			if err != nil {
				t.Fatal(err)
			}
			text, ok := bytes.CutPrefix(b, []byte("kept"))
			if !ok {
				t.Fatalf("what was there before is gone: %s", b)
			}
			if want := canonical(t, string(text)); want != string(text) {
				t.Error(cmp.Diff(want, string(text)))
			}
		})
	}
}

// TestNamesAreRecordedBesideSubjects: as what was claimed, and only where something was. Nothing else of an operation has them.
func TestNamesAreRecordedBesideSubjects(t *testing.T) {
	named := decision()
	p := *named.Principal
	p.Name, p.OnBehalfOfName, p.ActorNames = "Refund bot", "Ana", []string{"Refund bot"}
	named.Principal = &p
	text, err := named.AppendJSON(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"issuer":"https://idp.example.com","name":"Refund bot","on_behalf_of":`, `{"issuer":"https://idp.example.com","name":"Ana","subject":"ana"}`,
		`"actors":[{"issuer":"https://idp.example.com","name":"Refund bot","subject":"agent-7"}]`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if text, err := decision().AppendJSON(nil); err != nil || strings.Contains(string(text), `"name":`) {
		t.Errorf("%v: there is a name of nobody in %s", err, text)
	}
	op, same := operation(), operation()
	op.Principal, same.Principal = &p, full()
	one, _ := op.Input()
	two, _ := same.Input()
	if len(one) == 0 || !bytes.Equal(one, two) {
		t.Errorf("a name is in the input: %s", one)
	}
}

// TestWhatAKindAddsToARecord stands under the kind's name, and nowhere where it has nothing to add. A kind does not take the name of
// another member, and what has no canonical form is an error: without a record nothing passes.
func TestWhatAKindAddsToARecord(t *testing.T) {
	own := gate.Object{{Name: "server_name", Value: "ledger.test"}}
	for _, c := range []struct {
		recorded gate.Object
		want     string
	}{{own, `"target":"/v1/payments","tcp":{"server_name":"ledger.test"},"trace_id":""`}, {nil, `"target":"/v1/payments","trace_id":""`}} {
		j := &journal{}
		op := operation()
		op.Detail = recording{detail{"tcp", gate.Object{}, nil}, c.recorded}
		if _, err := newGate(rule{verdict: gate.Verdict{Effect: gate.Allow}}, j).Decide(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		if text, err := j.records[0].Body.AppendJSON(nil); err != nil || !strings.Contains(string(text), c.want) {
			t.Errorf("%s, error %v; want %s in it", text, err, c.want)
		}
	}
	for name, bad := range map[string]gate.Member{"the name of another": {Name: "target", Value: own}, "no JSON": {Name: "tcp", Value: gate.Object{{Name: "a", Value: struct{}{}}}}} {
		for _, body := range []gate.Body{&gate.Decision{Own: bad}, &gate.Outcome{Own: gate.Member{Name: strings.Replace(bad.Name, "target", "status", 1), Value: bad.Value}}} {
			if text, err := body.AppendJSON(nil); err == nil {
				t.Errorf("%s: %s", name, text)
			}
		}
	}
}

func decision() *gate.Decision {
	return &gate.Decision{
		Effect: gate.Allow, Rules: []string{"read", "own"}, Reasons: []string{"reads are free"}, Principal: full(), Resource: "payments", Protocol: "http", Verb: "GET",
		Target: "/v1/payments/7", Digest: strings.Repeat("ab", 32), PolicyDigest: strings.Repeat("cd", 32), RulesDigest: strings.Repeat("dc", 32), ConfigDigest: strings.Repeat("ef", 32),
		Context: gate.Context{Time: time.Unix(1_700_000_000, 0), RequestID: "0190", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Peer: "192.0.2.1:5", Session: "s"},
		Redact:  []gate.Redaction{{Path: "$..ssn", With: gate.Mask}, {Detect: "email", With: gate.Token}},
	}
}

func BenchmarkInput(b *testing.B) {
	b.ReportAllocs()
	p := full()
	for b.Loop() {
		op := operation()
		op.Principal = p
		if _, err := op.Input(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	op := operation()
	op.Principal = full()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := op.Digest(key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecisionAppendJSON(b *testing.B) {
	d, buf := decision(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.AppendJSON(buf); err != nil {
			b.Fatal(err)
		}
	}
}
