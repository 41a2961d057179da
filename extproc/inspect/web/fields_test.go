package web

import (
	"maps"
	"slices"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// Promise 3: nothing reaches a target that policy could not see. Whatever the name, a field is judged, or it is removed.
func TestEveryFieldIsSeenOrRemoved(t *testing.T) {
	names := []string{"accept", "user-agent", "baggage", "tracestate", "x-correlation-id", "x-amzn-trace-id", "x-b3-traceid", "x-envoy-attempt-count", "x-sudo-user", "anything"}
	names = append(names, named()...)
	for _, list := range []fields{alwaysVolatile, sdkVolatile} {
		names = append(slices.AppendSeq(names, maps.Keys(list.names)), list.prefixes...)
	}
	// Envoy answers for these itself, the same for every target.
	carried := []string{"connection", "transfer-encoding", "host"}
	for _, opt := range []Options{limits, {MaxBody: 1, Stream: true}, {MaxBody: 1, Volatile: []string{SDK, "any*"}, Identity: []string{"x-user", "sudo"}}} {
		for _, name := range names {
			value := "x"
			switch name {
			case "content-length":
				value = "0"
			case "host":
				value = "payments.agents.internal"
			case "x-forwarded-proto":
				value = "https"
			}
			r, i, err := read(opt, get("/", name+": "+value), "")
			if err != nil || slices.Contains(carried, name) {
				continue
			}
			_, bound := r.Headers.Get(name)
			_, volatile := r.VolatileHeaders.Get(name)
			removed := slices.Contains(i.Remove(), name)
			if n := map[bool]int{true: 1}; n[bound]+n[volatile]+n[removed] != 1 {
				t.Errorf("%s: bound %t, volatile %t, removed %t", name, bound, volatile, removed)
			}
		}
	}
}

func TestWhatMayDifferBetweenTwoAttempts(t *testing.T) {
	own := []string{"x-poll", "x-trace-*"}
	for _, c := range []struct {
		name     string
		volatile []string
		want     bool
	}{
		{"traceparent", nil, true},
		{"baggage", nil, true},
		{"x-b3-spanid", nil, true},
		{"x-amzn-trace-id", nil, true},
		{"x-cloud-trace-context", nil, true},
		{"uber-trace-id", nil, true},
		{"b3", nil, true},
		{"x-request-id", nil, true},
		{"x-correlation-id", nil, true},
		{"user-agent", nil, false},
		{"accept-encoding", nil, false},
		{"b30", nil, false},
		{"x-request-ids", nil, false},
		{"x-request-id-2", nil, false},
		{"idempotency-key", []string{SDK}, false},
		{"sentry-trace", nil, false},
		{"sentry-trace", []string{SDK}, true},
		{"x-datadog-trace-id", []string{SDK}, true},
		{"newrelic", []string{SDK}, true},
		{"elastic-apm-traceparent", []string{SDK}, true},
		{"x-ms-client-request-id", []string{SDK}, true},
		{"amz-sdk-invocation-id", []string{SDK}, true},
		{"amz-sdk-request", []string{SDK}, true},
		{"x-stainless-retry-count", []string{SDK}, true},
		{"user-agent", []string{SDK}, false},
		{"sdk-version", []string{SDK}, false},
		{"x-poll", own, true},
		{"x-polls", own, false},
		{"x-trace-a", own, true},
		{"x-trace", own, false},
		{"x-stainless-os", own, false},
		{"user-agent", []string{"user-agent"}, true},
		{"content-length", nil, true}, // body_bytes is bound
	} {
		opt := Options{MaxBody: 10, Volatile: c.volatile}
		r, _, err := read(opt, get("/", c.name+": 1"), "x")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_, bound := r.Headers.Get(c.name)
		_, volatile := r.VolatileHeaders.Get(c.name)
		if bound == c.want || volatile != c.want {
			t.Errorf("%s with %v: bound %t, volatile %t", c.name, c.volatile, bound, volatile)
		}
	}
	r, _, err := read(Options{Stream: true}, head("POST", "/", "content-length: 7"), "")
	if _, bound := r.Headers.Get("content-length"); err != nil || !bound {
		t.Errorf("the length of a body that nobody sees is not bound: %v", err)
	}
}

func TestWhatCannotBeVolatile(t *testing.T) {
	for element, ok := range map[string]bool{
		SDK: true, "user-agent": true, "x-trace-*": true, "date": true, "x-amz-date": true, "idempotency-key": true, "referer-x": true, "x-poll": true,
		"": false, "*": false, "x-*": false, "x-trace*": false, "x_trace": false, "X-Poll": false, ":path": false, "a b": false, "x-trace-*-id": false,
		"authorization": false, "cookie": false, "sudo": false, "x-scope-orgid": false, "x-my-user": false, "x-api-key": false, "x-sudo-*": false,
		"x-user-*": false, "x-use-*": true, "x-auth-*": false, "x-act-as-*": false, "proxy-*": false, "countersign-approval": false, "countersign-*": false,
		"content-type": false, "content-encoding": false, "content-*": false, "content-length": false, "transfer-encoding": false, "te": false, "host": false,
		"upgrade": false, "connection": false, "x-http-method-override": false, "x-http-*": false, "x-original-url": false, "x-rewrite-*": false,
		"if-match": false, "if-none-match": false, "if-*": false, "range": false, "accept-encoding": false, "accept-*": false,
	} {
		if err := CheckVolatile(element); (err == nil) != ok {
			t.Errorf("%q: %v", element, err)
		}
	}
}

// A prefix that a resource calls volatile makes no field of an identity volatile, nor lets it pass; nor does it make a
// condition volatile.
func TestIdentityIsNeverVolatile(t *testing.T) {
	opt := Options{MaxBody: 10, Volatile: []string{"x-my-*", "x-ms-*", "sudo"}, Identity: []string{"x-my-tenant"}}
	r, i, err := read(opt, get("/", "x-my-user: root", "x-my-tenant: a", "x-my-poll: 1", "sudo: root", "x-ms-if-tags: a", "x-ms-range: b"), "")
	if err != nil || !slices.Equal(i.Remove(), []string{"x-my-user", "sudo"}) {
		t.Fatalf("removed %v, %v", i.Remove(), err)
	}
	if len(r.Headers) != 3 || len(r.VolatileHeaders) != 1 {
		t.Errorf("bound %v, volatile %v", r.Headers, r.VolatileHeaders)
	}
}

// Promises 3 and 7: an agent does not act as somebody else with the gateway's credential.
func TestActingAs(t *testing.T) {
	for _, name := range []string{
		"sudo", "x-sudo", "x-sudo-user", "x-scope-orgid", "x-act-as", "x-on-behalf-of", "x-gitlab-token", "x-trino-user", "x-presto-user", "x-trino-role",
		"x-trino-original-user", "x-trino-extra-credential", "x-trino-authorization-user", "x-clickhouse-user", "x-clickhouse-key", "x-clickhouse-ssl-certificate-auth",
		"impersonate-user", "impersonate-extra-scopes", "x-impersonate", "x-impersonated-user", "x-gitlab-impersonation", "x-run-as", "runas", "es-security-runas-user", "x-as-user", "as-user", "x-login-as",
		"x-masquerade", "x-delegated-to", "x-actor", "x-actor-id", "proxy-user", "x-proxy-roles", "x-forwarded-user", "x-effective-user", "on-behalf-of",
		"x-grafana-org-id", "x-tenant-id", "x-tenant", "xero-tenant-id", "x-organization-id", "x-hasura-role", "x-hasura-user-id", "x-hasura-admin-secret", "x-hasura-org",
		"x-redmine-switch-user", "x-redmine-api-key", "api-username", "x-discourse-username", "x-userid", "x-user-id", "user", "x-slurm-user-name", "x-slurm-user-token",
		"mscrmcallerid", "callerobjectid", "x-caller-id", "dropbox-api-select-user", "dropbox-api-select-admin", "stripe-account", "login-customer-id", "developer-token",
		"private-token", "job-token", "deploy-token", "x-deploy-token", "x-plex-token", "x-figma-token", "x-shopify-access-token", "x-consul-token", "x-nomad-token", "x-sf-token", "token",
		"apikey", "x-apikey", "x-mbx-apikey", "dd-api-key", "dd-application-key", "x-goog-api-key", "x-rapidapi-key", "x-auth", "x-tableau-auth", "x-registry-auth", "x-session-token",
		"x-amz-security-token", "x-aws-ec2-metadata-token", "x-ms-copy-source-authorization", "x-ms-authorization-auxiliary", "paypal-auth-assertion", "x-github-otp", "x-client-secret",
		"x-parse-master-key", "x-admin-key", "x-emby-token", "x-forwarded-cookie", "x-proxiedentitieschain", "x-vault-namespace", "securitytenant", "x-wsse", "x-is-admin", "x-admin-email",
		"grpc-metadata-authorization", "grpc-metadata-x-user", "grpc-metadata-remote-user", "grpc-metadata-countersign-resource", "x-oauth-client",
		"x-subject", "x-amzn-request-context", "fly-client-ip", "x-nf-client-connection-ip", "x-my-real-ip",
		"countersign-anything", "countersign-approvals",
	} {
		r, i, err := read(limits, get("/", name+": root"), "")
		if err != nil || len(r.Headers) != 0 || len(r.VolatileHeaders) != 0 || !slices.Equal(i.Remove(), []string{name}) {
			t.Errorf("%s: passes as %v, removed %v, %v", name, r.Headers, i.Remove(), err)
		}
		if _, _, err := read(limits, get("/"), "", Field{name, "root"}); err == nil {
			t.Errorf("%s is accepted as a trailer", name)
		}
	}
}

func TestCommonFieldsAreNoIdentity(t *testing.T) {
	for name := range common {
		if identityNames[name] || actingNames[name] || actsAs(name) || overrides[name] {
			t.Errorf("%s is passed over, and is in another table", name)
		}
	}
}

// What is common and says nobody's name passes.
func TestFieldsThatAreNoIdentity(t *testing.T) {
	for _, name := range []string{
		"accept", "accept-language", "user-agent", "content-language", "if-match", "if-none-match", "if-modified-since", "prefer", "origin", "referer", "date", "expect", "pragma", "cache-control",
		"x-csrf-token", "x-xsrf-token", "x-csrftoken", "csrf-token", "requestverificationtoken", "x-request-verification-token", "x-atlassian-token", "x-requested-with", "x-request-start",
		"idempotency-key", "x-idempotency-key", "x-goog-gcs-idempotency-token", "continuation-token", "x-ms-continuation", "x-ms-continuationtoken", "x-next-page-token", "page-token", "x-sync-token",
		"lock-token", "if", "depth", "destination", "overwrite", "sec-fetch-user", "sec-fetch-site", "sec-websocket-key", "sec-ch-ua", "access-control-request-headers", "last-event-id",
		"anthropic-version", "anthropic-beta", "openai-organization", "openai-project", "openai-beta", "mcp-session-id", "mcp-protocol-version", "notion-version", "x-github-api-version", "stripe-version",
		"x-goog-user-project", "x-goog-request-params", "x-goog-api-client", "x-goog-encryption-key", "x-goog-meta-user", "x-amz-meta-user", "x-amz-meta-token", "x-ms-meta-role", "x-object-meta-user",
		"x-amz-date", "x-amz-target", "x-amz-acl", "x-amz-content-sha256", "x-amz-user-agent", "x-amz-server-side-encryption-customer-key", "x-amz-copy-source", "x-amz-client-token",
		"x-ms-version", "x-ms-date", "x-ms-client-request-id", "x-ms-lease-id", "x-ms-session-token", "x-ms-documentdb-partitionkey", "x-ms-blob-type", "x-ms-encryption-key", "odata-version",
		"x-trino-catalog", "x-trino-schema", "x-trino-session", "x-trino-source", "x-clickhouse-database", "x-okta-user-agent-extended", "x-snowflake-authorization-token-type",
		"git-protocol", "soapaction", "x-opaque-id", "kubectl-command", "x-stainless-lang", "x-hub-signature-256", "surrogate-key", "x-cache-key", "partition-key", "x-users", "x-forwarded-proto", "x-author", "x-envoy-auth-partial-body",
		"x-amz-meta-a.b", "x-authority", "x-tokens", "x-keyboard", "x-session-id", "x-resource-group", "x-priority", "x-ticket", "x-custom", "x-zip", "x-target-ip", "x-address", "grpc-timeout", "grpc-metadata-x-custom",
	} {
		if Identity(name) {
			t.Errorf("%s is taken for an identity", name)
		}
	}
}

// What a resource opens is judged and bound like any other field.
func TestOpenedIdentityFields(t *testing.T) {
	opt := Options{MaxBody: 10, Identity: []string{"sudo", "x-scope-orgid"}}
	r, i, err := read(opt, get("/", "sudo: ana", "x-scope-orgid: a", "x-scope-orgid: b", "x-act-as: root"), "")
	if err != nil {
		t.Fatal(err)
	}
	org, _ := r.Headers.Get("x-scope-orgid")
	if sudo, _ := r.Headers.Get("sudo"); !slices.Equal(sudo.([]string), []string{"ana"}) || !slices.Equal(org.([]string), []string{"a", "b"}) {
		t.Errorf("the input has %v", r.Headers)
	}
	if !slices.Equal(i.Remove(), []string{"x-act-as"}) {
		t.Errorf("removed %v", i.Remove())
	}
	for name, ok := range map[string]bool{
		"sudo": true, "x-scope-orgid": true, "x-api-key": true, "x-my-own-user": true, "from": true, "x-forwarded-host": true,
		"": false, "accept": false, "x-*": false, "Sudo": false, ":path": false, "x_user": false,
		"authorization": false, "proxy-authorization": false, "cookie": false, "cookie2": false, "dpop": false,
		"x-access-token": false, "countersign-approval": false, "x-countersign-principal": false, "countersign-x": false,
	} {
		if err := CheckOpened(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestApprovalThatIsNamed(t *testing.T) {
	const id = "01a206b8-9642-772c-b6e7-bba2f41d3074"
	for _, value := range []string{id, "01A206B8-9642-772C-B6E7-BBA2F41D3074"} {
		r, i, err := read(limits, get("/", "countersign-approval: "+value), "")
		if err != nil || r.Approval != id || len(r.Headers)+len(r.VolatileHeaders) != 0 || !slices.Equal(i.Remove(), []string{"countersign-approval"}) {
			t.Errorf("%s: named %q, in the input %v, removed %v, %v", value, r.Approval, r.Headers, i.Remove(), err)
		}
	}
	for _, value := range []string{"", "x", id + "0", id[1:], id + ", " + id, "01a206b8096420772c0b6e70bba2f41d3074", "01a206b8-9642-772c-b6e7-bba2f41d307g", "{" + id + "}", "01a206b8-9642-772c-b6e7-bba2f41d30\u0661"} {
		_, _, err := read(limits, get("/", "countersign-approval: "+value), "")
		wantRefused(t, err, gate.Unreadable, "Countersign-Approval")
	}
	_, _, err := read(limits, get("/", "countersign-approval: "+id, "countersign-approval: "+id), "")
	wantRefused(t, err, gate.Unreadable, "more than once")
}
