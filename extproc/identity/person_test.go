package identity

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
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

// TestWhoseOperationItIs: the human beings behind a token, in a form in which they can be compared with approvers.
func TestWhoseOperationItIs(t *testing.T) {
	a, c := newAuthority(t), newClock()
	for _, tc := range []struct {
		name   string
		edit   func(*Issuer)
		claims object
		want   []gate.Person // with ISSUER for the issuer
	}{
		{"an agent of its own", nil, nil, nil},
		{"an agent that acts for a person", nil, object{"sub": "u-bob", "act": object{"sub": "billing-agent"}}, []gate.Person{{Directory: "ISSUER", ID: "u-bob"}}},
		{"a person's own token", nil, object{"sub": "u-bob"}, []gate.Person{{Directory: "ISSUER", ID: "u-bob"}}},
		{"a token of no client that shows a sign-in", nil, object{"sub": "u-bob", "client_id": nil, "amr": []string{"pwd"}}, []gate.Person{{Directory: "ISSUER", ID: "u-bob"}}},
		{"a person who is called like a service account", nil, object{"sub": "u-bob", "preferred_username": "service-account-billing-agent", "auth_time": 1}, []gate.Person{{Directory: "ISSUER", ID: "u-bob"}}},
		{"Okta's login and id", nil, object{"sub": "bob@example.com", "client_id": nil, "cid": "web", "uid": "00u1"}, []gate.Person{{Directory: "ISSUER", ID: "00u1"}}},
		{"Entra ID's sub, without its kind", nil, object{"sub": "pairwise", "oid": user, "tid": tenant}, []gate.Person{{Directory: "ISSUER for client billing-agent", ID: "pairwise"}}},
		{"a shared claim", mailed, object{"sub": "u-bob", "act": object{"sub": "billing-agent"}, "email": " Bob@example.com ", "email_verified": true}, []gate.Person{{Directory: "ISSUER", ID: "u-bob", Shared: true, Claim: "Bob@example.com"}}},
		{"a shared claim that is not there", mailed, object{"sub": "u-bob"}, []gate.Person{{Directory: "ISSUER", ID: "u-bob", Shared: true}}},
		{"a shared claim that is not verified", mailed, object{"sub": "u-bob", "email": "bob@example.com", "email_verified": false}, []gate.Person{{Directory: "ISSUER", ID: "u-bob", Shared: true}}},
		{"a shared claim that is not verified, as text", mailed, object{"sub": "u-bob", "email": "bob@example.com", "email_verified": "false"}, []gate.Person{{Directory: "ISSUER", ID: "u-bob", Shared: true}}},
		{"a shared claim that is a list", mailed, object{"sub": "u-bob", "email": []string{"bob@example.com", "x@example.com"}}, []gate.Person{{Directory: "ISSUER", ID: "u-bob", Shared: true}}},
		{"a shared claim with a control character", mailed, object{"sub": "u-bob", "email": "bob@example.com\n"}, []gate.Person{{Directory: "ISSUER", ID: "u-bob", Shared: true, Claim: "bob@example.com"}}},
		{"a shared number", func(i *Issuer) { i.PersonClaim = "/employee/number" }, object{"sub": "u-bob", "employee": object{"number": 4711}}, []gate.Person{{Directory: "ISSUER", ID: "u-bob", Shared: true, Claim: "4711"}}},
		{"an actor who is a person", mailed, object{"sub": "u-bob", "email": "bob@example.com", "act": object{"sub": "u-eve", "email": "eve@example.com", "act": object{"sub": "billing-agent"}}}, []gate.Person{
			{Directory: "ISSUER", ID: "u-bob", Shared: true, Claim: "bob@example.com"}, {Directory: "ISSUER", ID: "u-eve", Shared: true, Claim: "eve@example.com"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := verifier(t, a, c, tc.edit).Verify(t.Context(), sign(t, standard, with(good(a, c), tc.claims), keyRSA()))
			if err != nil {
				t.Fatal(err)
			}
			for i := range p.People {
				p.People[i].Directory = strings.Replace(p.People[i].Directory, a.URL, "ISSUER", 1)
			}
			if diff := cmp.Diff(tc.want, p.People); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func mailed(i *Issuer) { i.PersonClaim = "email" }

// TestEntraPersonIsOneAtTwoIssuers: the person acted for, by a token of version 1, and the one who approves, by an ID token of
// version 2, are one, and known to the console by the same id.
func TestEntraPersonIsOneAtTwoIssuers(t *testing.T) {
	a, c := newAuthority(t), newClock()
	issuer := a.URL + "/" + tenant + "/"
	a.servePath("/"+tenant+"/", issuer)
	v, err := New(Options{Issuers: []Issuer{{Issuer: issuer, Audience: []string{"countersign"}, Kind: "entra"}}, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p, err := v.Verify(t.Context(), sign(t, standard, with(good(a, c), object{
		"iss": issuer, "sub": "pairwise-1", "oid": user, "tid": tenant, "client_id": nil, "appid": app, "scp": "Refund",
	}), keyRSA()))
	if err != nil {
		t.Fatal(err)
	}
	people := Issuer{Issuer: a.URL + "/" + tenant + "/v2.0", Kind: "entra"}
	who, err := ReadIDToken(people, payloadOf(t, object{"sub": "pairwise-2", "oid": user, "tid": tenant}), "console")
	if err != nil {
		t.Fatal(err)
	}
	want := []gate.Person{{Directory: "entra:" + tenant, ID: user}}
	if diff := cmp.Diff(want, p.People); diff != "" || p.Subject != app {
		t.Errorf("the person acted for: %s", diff)
	}
	if diff := cmp.Diff(want, who.People); diff != "" || who.Subject != user {
		t.Errorf("the approver: %s", diff)
	}
	if got := Directory(people); got != want[0].Directory {
		t.Errorf("the configuration's directory is %q", got)
	}
	for _, unknown := range []Issuer{{Issuer: "https://login.microsoftonline.com/" + tenant + "/v2.0"}, {Issuer: "https://x.ciamlogin.com/" + tenant}, {Issuer: "https://a.example", Kind: "github"}} {
		if got := Directory(unknown); got != "" {
			t.Errorf("%+v is the directory %q", unknown, got)
		}
	}
}
