package identity

import (
	"errors"
	"strings"
	"testing"
)

// TestKinds has the access tokens of widespread issuers, as they document them: of a machine's own account, and of somebody who
// signed in. None is configured but by its issuer.
func TestKinds(t *testing.T) {
	const uuid, service = "9f1c2b34-0000-4000-8000-000000000007", "service-account-billing"
	for _, tc := range []struct {
		issuer, whose string
		claims        object
		want          string
		held          bool // against who approves
	}{
		{"Keycloak", "a client", object{"sub": uuid, "typ": "Bearer", "azp": "billing", "acr": "1", "scope": "email profile", "clientHost": "192.0.2.7", "clientAddress": "192.0.2.7", "preferred_username": service, "client_id": "billing"}, "agent", false},
		{"Keycloak", "a client whose tokens say little", object{"sub": uuid, "typ": "Bearer", "azp": "billing", "acr": "1", "scope": "api"}, "agent", true},
		{"Keycloak", "a client that may refresh", object{"sub": uuid, "azp": "billing", "session_state": "s", "sid": "s", "clientHost": "192.0.2.7", "preferred_username": service, "client_id": "billing"}, "agent", true},
		{"Keycloak", "a person", object{"sub": uuid, "typ": "Bearer", "azp": "cli", "sid": "s", "acr": "1", "scope": "openid profile", "preferred_username": "bob"}, "person", true},
		{"Keycloak", "a person who is called like a client", object{"sub": uuid, "azp": "cli", "preferred_username": "service-account-cli2"}, "agent", true},
		{"Entra ID v2", "an application", object{"sub": uuid, "oid": uuid, "azp": "a1", "azpacr": "1", "tid": "t1", "ver": "2.0", "idtyp": "app"}, "agent", false},
		{"Entra ID v1", "an application", object{"sub": uuid, "oid": uuid, "appid": "a1", "appidacr": "1", "tid": "t1", "ver": "1.0"}, "agent", false},
		{"Entra ID", "a person", object{"sub": "pairwise", "oid": uuid, "azp": "cli", "tid": "t1", "scp": "Payments.Read", "ver": "2.0"}, "person", true},
		{"Auth0", "an application", object{"sub": "abc@clients", "azp": "abc", "gty": "client-credentials", "scope": "read"}, "agent", false},
		{"Auth0", "a person", object{"sub": "auth0|bob", "azp": "abc", "aud": []string{"countersign", "ISSUER/userinfo"}, "scope": "openid profile"}, "person", true},
		{"Okta", "a service", object{"ver": 1, "sub": "0oa1", "cid": "0oa1", "scp": []string{"payments"}}, "agent", false},
		{"Okta", "a person", object{"ver": 1, "sub": "bob@example.com", "cid": "0oa2", "uid": "00u1", "scp": []string{"openid", "payments"}}, "person", true},
		{"Cognito", "an application", object{"sub": "4n7", "client_id": "4n7", "token_use": "access", "auth_time": 1700000000, "version": 2, "scope": "payments/read"}, "agent", false},
		{"Cognito", "a person", object{"sub": uuid, "client_id": "4n7", "username": "bob", "token_use": "access", "auth_time": 1700000000, "origin_jti": "o"}, "person", true},
		{"Google", "a service account", object{"sub": "1048", "azp": "1048", "email": "billing@project.iam.gserviceaccount.com", "email_verified": true}, "agent", false},
		{"Google", "a service account that another one asks for", object{"sub": "1048", "azp": "32", "email": "billing@project.iam.gserviceaccount.com", "email_verified": true}, "workload", true},
		{"Zitadel", "a service user", object{"sub": "2730", "azp": "billing", "client_id": "billing"}, "agent", true},
		{"Zitadel", "a person, of whom it does not say so", object{"sub": "2731", "azp": "2799@cli", "client_id": "2799@cli"}, "agent", true},
		{"Kubernetes", "a service account", object{"sub": "system:serviceaccount:billing:agent", "client_id": nil, "kubernetes.io": object{"namespace": "billing"}}, "workload", false},
		{"Kubernetes", "a service account, in an older token", object{"sub": "system:serviceaccount:billing:agent", "client_id": nil}, "workload", false},
		{"GitHub Actions", "a workflow", object{"sub": "repo:example/billing:ref:refs/heads/main", "client_id": nil, "repository": "example/billing", "workflow_ref": "example/billing/.github/workflows/w.yml@refs/heads/main", "actor": "bob"}, "workload", false},
		{"GitLab CI", "a job", object{"sub": "project_path:example/billing:ref_type:branch:ref:main", "client_id": nil, "project_path": "example/billing", "pipeline_id": "7", "user_login": "bob"}, "workload", false},
		{"SPIFFE", "a workload", object{"sub": "spiffe://example.org/billing", "client_id": nil}, "workload", false},
		{"authentik", "a service account", object{"sub": uuid, "azp": "billing", "acr": "goauthentik.io/providers/oauth2/default", "auth_time": 1700000000, "preferred_username": "ak-billing-client_credentials"}, "agent", true},
		{"Oracle", "a client", object{"sub": "c1", "client_id": "c2", "sub_type": "client"}, "agent", false},
		{"Oracle", "a person", object{"sub": "bob", "client_id": "c2", "sub_type": "user"}, "person", true},
		{"WSO2", "an application", object{"sub": "admin", "client_id": "c1", "aut": "APPLICATION"}, "agent", false},
		{"FusionAuth", "an entity", object{"sub": uuid, "client_id": "c1", "gty": []string{"client_credentials"}}, "agent", false},
		{"FusionAuth", "a person", object{"sub": uuid, "client_id": "c1", "gty": []string{"authorization_code"}, "auth_time": 1700000000}, "person", true},
		{"RFC 9068", "a client", object{"sub": "c1", "client_id": "c1"}, "agent", false},
		{"RFC 9068", "somebody else than the client, of whom nothing is known", object{"sub": "u1", "client_id": "c1"}, "agent", true},
		{"RFC 9068", "a person", object{"sub": "u1", "client_id": "c1", "auth_time": 1700000000}, "person", true},
		{"RFC 8693", "an agent that acts for a person", object{"sub": "u1", "client_id": "c1", "auth_time": 1700000000, "act": object{"sub": "agent-7"}}, "agent", true},
	} {
		t.Run(tc.issuer+"/"+tc.whose, func(t *testing.T) {
			a, c := newAuthority(t), newClock()
			claims := with(good(a, c), object{"client_id": nil})
			if list, ok := tc.claims["aud"].([]string); ok {
				tc.claims["aud"] = strings.Split(strings.ReplaceAll(strings.Join(list, " "), "ISSUER", a.URL), " ")
			}
			p, err := verifier(t, a, c).Verify(t.Context(), sign(t, standard, with(claims, tc.claims), keyRSA()))
			if err != nil {
				t.Fatal(err)
			}
			if p.Kind != tc.want || (len(p.People) > 0) != tc.held {
				t.Errorf("it is of kind %q, held against %v, and should be %q, held: %t", p.Kind, p.People, tc.want, tc.held)
			}
		})
	}
}

// TestKindClaim has a claim say what a principal is, against all that its token shows.
func TestKindClaim(t *testing.T) {
	person, machine := object{"sub": "u1", "client_id": "c1", "auth_time": 1700000000}, object{"sub": "c1", "client_id": "c1"}
	for _, tc := range []struct {
		name, claim  string
		claims, more object
		want         string // "" where the token is refused
		held         bool
	}{
		{"it says person", "kind", machine, object{"kind": "person"}, "person", true},
		{"it says user", "kind", machine, object{"kind": "User"}, "person", true},
		{"it says machine", "kind", object{"sub": "2731", "client_id": "c1"}, object{"kind": "machine"}, "agent", false},
		{"it says machine of whom has signed in", "kind", person, object{"kind": "machine"}, "agent", true},
		{"it says service account", "kind", person, object{"kind": "SERVICE_ACCOUNT"}, "agent", true},
		{"it says workload", "kind", person, object{"kind": "workload"}, "workload", true},
		{"it is not there", "kind", person, nil, "person", true},
		{"it is null", "kind", person, object{"kind": nil}, "person", true},
		{"it lies within another", "ext.kind", machine, object{"ext": object{"kind": "person"}}, "person", true},
		{"its exact name counts first", "ext.kind", machine, object{"ext": object{"kind": "agent"}, "ext.kind": "person"}, "person", true},
		{"a pointer to it", "/https:~1~1idp.example~1kind", machine, object{"https://idp.example/kind": "person"}, "person", true},
		{"an agent that acts for somebody", "kind", person, object{"kind": "workload", "act": object{"sub": "agent-7"}}, "workload", true},
		{"it says what nobody knows", "kind", machine, object{"kind": "wizard"}, "", false},
		{"it is empty", "kind", machine, object{"kind": ""}, "", false},
		{"it is a list", "kind", machine, object{"kind": []string{"person"}}, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, c := newAuthority(t), newClock()
			v := verifier(t, a, c, func(i *Issuer) { i.KindClaim = tc.claim })
			p, err := v.Verify(t.Context(), sign(t, standard, with(with(good(a, c), tc.claims), tc.more), keyRSA()))
			var refusal *Refusal
			switch {
			case tc.want == "":
				if !errors.As(err, &refusal) || refusal.Reason != Claims {
					t.Errorf("it is accepted: %v, %v", p, err)
				}
			case err != nil:
				t.Error(err)
			case p.Kind != tc.want || (len(p.People) > 0) != tc.held:
				t.Errorf("it is of kind %q, held against %v, and should be %q, held: %t", p.Kind, p.People, tc.want, tc.held)
			}
		})
	}
}
