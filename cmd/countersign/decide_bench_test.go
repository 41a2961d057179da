package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/redact"
)

// BenchmarkDecide is what one decision costs without Envoy and without the disk: a request is read, its canonical input
// made and digested, the policy evaluated and the record written out, beside more and more resources that each have a
// policy of their own. "new" asks for another path each time, "again" for one that policy has ruled on before.
func BenchmarkDecide(b *testing.B) {
	for _, resources := range []int{10, 100, 1_000, 10_000} {
		policies := benchPolicies(b, resources)
		g := &gate.Gate{Policy: policies, Recorder: &forgetful{}, DigestKey: bytes.Repeat([]byte{1}, 32), ConfigDigest: policies.Digest(), Now: time.Now}
		principal := &gate.Principal{Issuer: "https://idp.test", Subject: "agent-1", Kind: "agent", Groups: []string{"agents"}}
		resource := gate.Resource{Name: "p7", Kind: "http", Policy: "p7"}
		asked := 0
		for _, kind := range []string{"new", "again"} {
			b.Run(fmt.Sprintf("resources=%d/%s", resources, kind), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					path := "/v1/payments/7"
					if kind == "new" {
						asked++
						path = "/v1/payments/" + strconv.Itoa(asked)
					}
					decideOnce(b, g, &gate.Operation{ID: "0192f0c1-7a5e-7000-8000-000000000000", Principal: principal, Resource: resource, Protocol: "http", Verb: "GET", Target: path}, path)
				}
			})
		}
	}
}

func decideOnce(b *testing.B, g *gate.Gate, op *gate.Operation, path string) {
	b.Helper()
	inspector := web.New(web.Options{MaxBody: 1 << 20})
	err := inspector.Head([]web.Field{
		{Name: ":authority", Value: "payments.test"},
		{Name: ":path", Value: path},
		{Name: ":method", Value: "GET"},
		{Name: ":scheme", Value: "http"},
		{Name: "user-agent", Value: "bench"},
		{Name: "accept", Value: "application/json"},
		{Name: "x-request-id", Value: "f3a4b0c2-8f3f-4a0e-9d0e-0d6c6a0f0b11"},
	})
	if err != nil {
		b.Fatal(err)
	}
	if op.Detail, err = inspector.Request(); err != nil {
		b.Fatal(err)
	}
	if ruling, err := g.Decide(context.Background(), op); err != nil || !ruling.Allowed() {
		b.Fatal(ruling.Refusal(), err)
	}
}

// benchPolicies are as many packages as there are resources.
func benchPolicies(b *testing.B, resources int) *policy.Set {
	b.Helper()
	dir := b.TempDir()
	packages := map[string][]string{}
	for i := range resources {
		name := fmt.Sprintf("p%d", i)
		packages[name] = []string{"http"}
		text := fmt.Sprintf("package rules.%s\n%s%s", name, benchRules, benchRedact)
		if err := os.WriteFile(filepath.Join(dir, name+".rego"), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	set, err := policy.Load(context.Background(), policy.Options{Path: dir, Kinds: policyKinds(), Packages: packages, CheckRedaction: redact.Check, CacheSize: verdictCache})
	if err != nil {
		b.Fatal(err)
	}
	return set
}

const benchRules = `
allow contains {"id": "read"} if input.http.method == "GET"

ask contains {"id": "refund", "reason": "refunds need a person", "approvers": ["payments-oncall"], "quorum": 1} if {
	input.http.method == "POST"
	input.http.segments = ["v1", "payments", _, "refunds"]
}

deny contains {"id": "export", "reason": "no bulk export"} if input.http.segments[1] == "exports"
`

const benchRedact = `
redact contains {"path": "$..ssn"} if not "pii-reader" in input.principal.groups

redact contains {"path": "$..card.number", "with": "mask"}
`

// forgetful is a journal that keeps nothing.
type forgetful struct {
	seq  uint64
	line []byte
}

func (m *forgetful) Append(_ context.Context, r *gate.Record) (gate.Receipt, error) {
	line, err := r.Body.AppendJSON(m.line[:0])
	m.line = line
	m.seq++
	return gate.Receipt{Seq: m.seq}, err
}

func (m *forgetful) Begin(ctx context.Context, r *gate.Record) func() (gate.Receipt, error) {
	receipt, err := m.Append(ctx, r)
	return func() (gate.Receipt, error) { return receipt, err }
}

func (m *forgetful) Post(ctx context.Context, r *gate.Record) error {
	_, err := m.Append(ctx, r)
	return err
}
