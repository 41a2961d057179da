package main

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// retrying is a retry policy with every status that clients are known to call again on.
const retrying = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 4, "initialBackoff": "0.001s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE", "UNKNOWN", "INTERNAL", "ABORTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "DATA_LOSS", "CANCELLED"]
}}]}`

// callPolicy lets calls be made, takes something out of the answer of one, which cannot be done, and denies one.
const callPolicy = `
-- policy.rego --
package rules.payments

allow contains {"id": "all"}

deny contains {"id": "no"} if input.http.path == "/demo.Payments/Deny"

redact contains {"path": "$.ssn"} if {
	input.resource.labels.answers == "seen"
	input.http.path == "/demo.Payments/Get"
}

-- resource.yaml --
target_http2: true
labels: {answers: ANSWERS}
`

// TestCallsAreNotRepeated: a client of gRPC that calls again whatever it may is told of no refusal, and of nothing that the target
// may have done, in a status that has it call again.
func TestCallsAreNotRepeated(t *testing.T) {
	t.Parallel()
	for attach, answers := range map[string]string{"ext_proc": "seen", "ext_authz": "unseen"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			g := start(t, strings.Replace(callPolicy, "ANSWERS", answers, 1), story.Options{Attach: attach})
			token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
			if err != nil {
				t.Fatal(err)
			}
			conn, err := grpc.NewClient(g.Address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(retrying))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			withheld, reached := codes.FailedPrecondition, 1
			if attach == "ext_authz" {
				withheld = codes.OK
			}
			for _, c := range []struct {
				name, method string
				fields       []string
				want         codes.Code
				reached      int
			}{
				{"withheld", "Get", nil, withheld, reached},
				{"broken off by the target", "Break", nil, codes.FailedPrecondition, reached},
				{"denied", "Deny", nil, codes.PermissionDenied, 0},
				{"unreadable", "Other", []string{"x-http-method-override", "GET"}, codes.InvalidArgument, 0},
				{"unauthenticated", "Other", []string{"authorization", "Bearer none"}, codes.Unauthenticated, 0},
			} {
				g.Target.Reset()
				fields := c.fields
				if len(fields) == 0 || fields[0] != "authorization" {
					fields = append([]string{"authorization", "Bearer " + token}, fields...)
				}
				err := conn.Invoke(metadata.AppendToOutgoingContext(t.Context(), fields...), "/demo.Payments/"+c.method, &emptypb.Empty{}, &emptypb.Empty{})
				if n := len(g.Target.Requests()); status.Code(err) != c.want || n != c.reached {
					t.Errorf("%s: %v, and the target saw %d calls; want %v and %d", c.name, err, n, c.want, c.reached)
				}
			}
		})
	}
}

// TestCallsToAServiceThatIsAwayMayBeRepeated: of what nothing was done a client may call again.
func TestCallsToAServiceThatIsAwayMayBeRepeated(t *testing.T) {
	t.Parallel()
	g := start(t, strings.Replace(callPolicy, "ANSWERS", "unseen", 1), story.Options{})
	token, err := g.Issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	g.Target.Stop()
	conn, err := grpc.NewClient(g.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(context.WithoutCancel(t.Context()), "authorization", "Bearer "+token)
	if err := conn.Invoke(ctx, "/demo.Payments/Other", &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unavailable {
		t.Errorf("%v, want %v", err, codes.Unavailable)
	}
}
