package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestTwoTargetsLookTheSame asks two gateways whose targets differ in protected values only: the agents get the same
// answers, whatever they ask for and in whatever protocol, good answers, errors, streams and broken ones (promise 8).
func TestTwoTargetsLookTheSame(t *testing.T) {
	t.Parallel()
	policy := `
-- policy.rego --
package rules.payments

allow contains {"id": "all"}

redact contains {"path": p} if some p in ["$..name", "$..ssn", "$..email", "$..number", "$..iban"]

redact contains {"detect": d} if some d in ["email", "card", "ssn", "iban"]
`
	other := extproctest.Protected{Name: "Bartholomew Considerably-Longer", Email: "b.c.longer@mail.example.org", SSN: "987-65-4321", Card: "5555555555554444", IBAN: "DE89370400440532013000"}
	two := twins{start(t, policy, story.Options{}), start(t, policy, story.Options{Target: story.TargetOptions{Protected: other}})}
	for _, http2 := range []bool{false, true} {
		for _, path := range []string{
			"/v1/payments/7", "/v1/payments", "/v1/payments?limit=40", "/v1/payments/none", "/v1/exports/all", "/nowhere", "/hello",
			"/stream/sse?count=9", "/stream/ndjson?count=9", "/stream/array?count=9", "/trailers", "/early-hints",
			"/status/204", "/status/304", "/status/400", "/status/401", "/status/404", "/status/409", "/status/429", "/status/500", "/status/503",
		} {
			for _, method := range []string{"GET", "HEAD"} {
				two.compare(t, &story.Request{Method: method, Target: path, HTTP2: http2})
			}
		}
		for _, path := range []string{"/v1/payments", "/v1/payments/7/refunds", "/status/201", "/status/422", "/trailers"} {
			two.compare(t, &story.Request{Method: "POST", Target: path, HTTP2: http2, Body: []byte(`{"amount":10}`)})
		}
		two.compare(t, &story.Request{Method: "DELETE", Target: "/v1/payments/7", HTTP2: http2})
		// What asks about the bytes before redaction.
		for _, f := range []extproctest.Field{{Name: "Range", Value: "bytes=0-99"}, {Name: "If-None-Match", Value: "*"}, {Name: "Accept-Encoding", Value: "gzip"}} {
			two.compare(t, &story.Request{Method: "GET", Target: "/v1/payments/7", HTTP2: http2, Fields: []extproctest.Field{f}})
		}
		for _, kind := range extproctest.HostileKinds() {
			two.compare(t, &story.Request{Method: "GET", Target: "/hostile/" + kind, HTTP2: http2})
		}
	}
}

// TestTwoTargetsOfDifferentSizesLookTheSame asks targets whose protected values are of 11 bytes, some KiB and many, about
// answers that come to a limit before or after they are redacted, or not at all: where that is, how much passes before it, and
// what is said of it is the same (promise 8).
func TestTwoTargetsOfDifferentSizesLookTheSame(t *testing.T) {
	t.Parallel()
	policy := `
-- policy.rego --
package rules.payments

allow contains {"id": "all"}

redact contains {"path": p} if some p in ["$..name", "$..ssn", "$..email", "$..number", "$..iban"]
-- resource.yaml --
limits: {response_body: 2KiB}
`
	small := extproctest.DefaultProtected()
	for _, size := range []int{3 << 10, 200 << 10} {
		large := small
		large.SSN, large.Name = strings.Repeat("9", size), strings.Repeat("Ada ", size/4)
		two := twins{start(t, policy, story.Options{}), start(t, policy, story.Options{Target: story.TargetOptions{Protected: large}})}
		for _, path := range []string{
			"/v1/payments/7", "/v1/payments?limit=20", "/stream/sse?count=9", "/stream/ndjson?count=20",
			"/stream/array?count=20", "/hostile/of-one-size", "/hostile/repeated-events", "/hostile/broken-late", "/hostile/derived",
		} {
			for _, method := range []string{"GET", "HEAD"} {
				two.compare(t, &story.Request{Method: method, Target: path})
			}
		}
	}
}

// twins are two gateways that must not be told apart.
type twins [2]*story.Gateway

// compare sends both the same request. A pair that differs is asked again: where an answer is broken off, it is a matter of moments
// how much of it an agent gets, and whether any, for each of the two. What protected values make differ does so each time.
func (two twins) compare(t *testing.T, r *story.Request) {
	t.Helper()
	var looks [2]look
	for range 6 {
		for i, g := range two {
			request := *r
			request.Fields = append([]extproctest.Field{{Name: "Authorization", Value: "Bearer " + g.Issuer.Token(nil)}}, r.Fields...)
			a, err := g.Send(t.Context(), &request)
			if looks[i] = (look{head: "no answer"}); err == nil {
				looks[i] = observable(a)
			}
		}
		if looks[0] == looks[1] {
			return
		}
	}
	t.Errorf("%s %s %v, HTTP/2 %t: the answers differ:\n%+v\n%+v", r.Method, r.Target, r.Fields, r.HTTP2, looks[0], looks[1])
}

// look is what an agent can see of an answer, less what differs between two requests anyway.
type look struct {
	head, body, trailer string
	broken              bool
}

func observable(a *story.Answer) look {
	h := a.Header.Clone()
	for _, name := range []string{"Date", "X-Request-Id"} {
		h.Del(name)
	}
	body := a.Body
	var problem map[string]any
	if a.Problem() != "" && json.Unmarshal(body, &problem) == nil {
		delete(problem, "request_id")
		h.Del("Content-Length") // of the problem, which has the request's id
		body, _ = json.Marshal(problem)
	}
	return look{fmt.Sprint(a.Status, h), string(body), fmt.Sprint(a.Trailer), a.Broken != nil}
}
