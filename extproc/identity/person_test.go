package identity

import (
	"encoding/json"
	"strings"
	"testing"
)

const (
	tenant = "11111111-aaaa-4000-8000-000000000001"
	app    = "22222222-aaaa-4000-8000-000000000002"
	user   = "88888888-aaaa-4000-8000-000000000008"
)

// peoplesTokens are claims as widespread issuers write them: people's who signed in with the console's client, and everybody
// else's who can have a token for it.
var peoplesTokens = []struct {
	name   string
	claims object
	want   string // the subject, or what the refusal says
}{
	{"Keycloak, a person", object{"sub": "f:1", "client_id": nil, "azp": "console", "sid": "s", "acr": "1", "scope": "profile email", "preferred_username": "bob"}, "f:1"},
	{"Keycloak, a person, as older versions write it", object{"sub": "f:1", "client_id": nil, "azp": "console", "session_state": "s", "auth_time": 1}, "f:1"},
	{"Okta, a person", object{"sub": "bob@example.com", "client_id": nil, "cid": "console", "uid": "00u1", "scp": []string{"openid"}, "auth_time": 1}, "bob@example.com"},
	{"Auth0, a person", object{"sub": "auth0|5f7", "client_id": nil, "azp": "console", "aud": []string{"countersign", "ISSUER/userinfo"}, "scope": "openid profile"}, "auth0|5f7"},
	{"Cognito, a person", object{"sub": "u1", "client_id": "console", "token_use": "access", "username": "bob", "auth_time": 1}, "u1"},
	{"authentik, a person", object{"sub": "9c8d", "client_id": nil, "azp": "console", "acr": "goauthentik.io/providers/oauth2/default", "amr": []string{"pwd"}, "auth_time": 1}, "9c8d"},
	{"FusionAuth, a person", object{"sub": "u1", "client_id": nil, "azp": "console", "gty": []string{"authorization_code"}}, "u1"},
	{"an issuer after RFC 9068, a person", object{"sub": "u1", "client_id": "console", "auth_time": 1, "acr": "phr", "amr": []string{"hwk"}}, "u1"},
	{"Entra ID, a person, without people.kind", object{"sub": "pairwise", "oid": user, "tid": tenant, "client_id": nil, "azp": "console", "scp": "Approve"}, "pairwise"},

	{"an application of Entra ID that says so", object{"sub": user, "oid": "other", "tid": tenant, "client_id": nil, "azp": "console", "idtyp": "app", "amr": []string{"rsa"}}, "idtyp"},
	{"one that does not", object{"sub": user, "oid": user, "tid": tenant, "client_id": nil, "appid": "console", "roles": []string{"Approve"}, "scp": "x"}, "oid is sub"},
	{"one without either mark", object{"sub": "pairwise", "oid": user, "tid": tenant, "client_id": nil, "azp": "console", "roles": []string{"Approve"}}, "signed in"},
	{"an agent user of Entra ID", object{"sub": "pairwise", "oid": user, "tid": tenant, "client_id": nil, "azp": "console", "scp": "Approve", "idtyp": "user", "xms_sub_fct": "3 13"}, "xms_sub_fct"},
	{"an agent identity of Entra ID for a user", object{"sub": "pairwise", "oid": user, "tid": tenant, "client_id": nil, "azp": "console", "scp": "Approve", "idtyp": "user", "xms_act_fct": "11 3 9"}, "xms_act_fct"},
	{"a service account of Keycloak", object{"sub": "f:2", "client_id": "console", "azp": "console", "sid": "s", "preferred_username": "service-account-console"}, "service account"},
	{"one without the profile scope", object{"sub": "f:2", "client_id": "console", "azp": "console", "acr": "1", "scope": "email", "email_verified": false}, "signed in"},
	{"one that has a session", object{"sub": "f:2", "client_id": "console", "azp": "console", "sid": "s", "clientHost": "192.0.2.7"}, "service account"},
	{"a machine user of Zitadel", object{"sub": "2783", "client_id": "console"}, "signed in"},
	{"one that is its own client", object{"sub": "console", "client_id": "console", "auth_time": 1}, "the client itself"},
	{"a service account of authentik", object{"sub": "9c8d", "client_id": nil, "azp": "console", "acr": "goauthentik.io/providers/oauth2/default", "auth_time": 1, "preferred_username": "agents", "scope": "openid profile"}, "signed in"},
	{"the one that authentik makes for a client", object{"sub": "9c8d", "client_id": nil, "azp": "console", "amr": []string{"pwd"}, "preferred_username": "ak-agents-client_credentials"}, "service account"},
	{"a machine of Auth0", object{"sub": "console@clients", "client_id": nil, "azp": "console", "gty": "client-credentials", "scope": "openid", "aud": []string{"countersign", "ISSUER/userinfo"}}, "the client itself"},
	{"a grant that is a client's", object{"sub": "u1", "client_id": "console", "gty": []string{"authorization_code", "client_credentials"}}, "gty"},
	{"a service account of Google", object{"sub": "1071", "client_id": nil, "azp": "console", "email": "a@b.iam.gserviceaccount.com", "auth_time": 1}, "workload"},
	{"a workload of Kubernetes", object{"sub": "system:serviceaccount:a:b", "kubernetes.io": object{}, "client_id": "console", "auth_time": 1}, "workload"},
	{"names, groups and scopes, and no sign-in", object{"sub": "u1", "client_id": "console", "name": "Bob", "email": "bob@example.com", "acr": "phr", "scope": "openid profile email"}, "signed in"},
	{"a sign-in that is empty", object{"sub": "u1", "client_id": "console", "amr": []string{}, "sid": "", "auth_time": 0}, "signed in"},
	{"a sign-in with an empty method", object{"sub": "u1", "client_id": "console", "amr": []string{""}}, "signed in"},
	{"somebody who acts for a person", object{"sub": "u1", "client_id": "console", "auth_time": 1, "act": object{"sub": "agent-1"}}, "acts for"},
	{"a person, with the agent's client", object{"sub": "u1", "client_id": "billing-agent", "auth_time": 1, "amr": []string{"pwd"}}, `"billing-agent", which is not`},
	{"a person, with a client that is called almost like it", object{"sub": "u1", "client_id": "Console", "auth_time": 1}, "which is not"},
	{"a person, with no client", object{"sub": "u1", "client_id": nil, "auth_time": 1}, "to which client"},
}

// TestAnAgentsTokenIsNoPersons: where people's own tokens are wanted, everybody else's is refused.
func TestAnAgentsTokenIsNoPersons(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c, func(i *Issuer) { i.Clients = []string{"cli", "console"} })
	for _, tc := range peoplesTokens {
		t.Run(tc.name, func(t *testing.T) {
			claims := with(good(a, c), tc.claims)
			if list, ok := claims["aud"].([]string); ok {
				claims["aud"] = strings.Split(strings.ReplaceAll(strings.Join(list, " "), "ISSUER", a.URL), " ")
			}
			for range 2 { // the second time from what is remembered
				p, err := v.Verify(t.Context(), sign(t, standard, claims, keyRSA()))
				if err == nil {
					if p.Subject != tc.want || p.Kind != "person" || p.OnBehalfOf != nil {
						t.Fatalf("accepted as %+v, want %q", p, tc.want)
					}
					continue
				}
				if got := reasonOf(t, p, err); got != NotAPerson || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("refused for %q: %v; want %q", got, err, tc.want)
				}
			}
		})
	}
}

// TestEntraNamesAPersonAlikeAtBothDoors: a bearer token and an ID token have another `sub` each, and one `oid`.
func TestEntraNamesAPersonAlikeAtBothDoors(t *testing.T) {
	a, c := newAuthority(t), newClock()
	issuer := a.URL + "/" + tenant + "/v2.0"
	a.servePath("/"+tenant+"/v2.0", issuer)
	i := Issuer{Issuer: issuer, Audience: []string{"countersign"}, Kind: "entra", Clients: []string{app}}
	v, err := New(Options{Issuers: []Issuer{i}, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	delegated := with(good(a, c), object{
		"iss": issuer, "sub": "pairwise-1", "oid": user, "tid": tenant, "client_id": nil, "azp": app, "scp": "Approve", "groups": []string{"oncall"},
	})
	p, err := v.Verify(t.Context(), sign(t, standard, delegated, keyRSA()))
	if err != nil || p.Subject != user || p.Kind != "person" {
		t.Fatalf("a bearer token is of %+v, %v", p, err)
	}
	session, err := ReadIDToken(i, payloadOf(t, with(delegated, object{"sub": "pairwise-2", "aud": app, "scp": nil})), app)
	if err != nil || session.Subject != user || session.Groups[0] != "oncall" {
		t.Errorf("an ID token is of %+v, %v", session, err)
	}
	for name, changes := range map[string]object{
		"no object id": {"oid": nil}, "no tenant": {"tid": nil}, "another tenant": {"tid": app},
		"an application": {"idtyp": "app"}, "an application that does not say so": {"sub": user},
	} {
		if got := reason(t, v, sign(t, standard, with(delegated, changes), keyRSA())); got != Claims && got != NotAPerson {
			t.Errorf("a bearer token with %s: %q", name, got)
		}
		if p, err := ReadIDToken(i, payloadOf(t, with(delegated, changes)), app); err == nil {
			t.Errorf("an ID token with %s is of %+v", name, p)
		}
	}
}

func payloadOf(t *testing.T, claims object) []byte {
	t.Helper()
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
