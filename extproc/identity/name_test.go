package identity

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// TestNames: what a token claims that somebody is called is beside their ids, as it was claimed. Which claim has it is configured, or
// is the usual one of the kind; whatever is wrong with a name, the token is as good as without it.
func TestNames(t *testing.T) {
	a, c := newAuthority(t), newClock()
	configured := func(own, persons string) func(*Issuer) {
		return func(i *Issuer) { i.NameClaim, i.PersonNameClaim = own, persons }
	}
	const uuid = "8f3ae1d2-0c55-4f0e-9d0e-0d2d1f7a4b11"
	acting := func(more object) object {
		return with(object{"sub": "p-1", "preferred_username": "alice", "name": "Alice A.", "client_id": "refund-bot", "act": object{"sub": uuid}}, more)
	}
	for _, tc := range []struct {
		name   string
		edit   func(*Issuer)
		claims object
		want   string // the principal's; then the person's that it acts for, and all actors'
	}{
		{"an agent by its client", nil, object{"sub": uuid, "client_id": "refund-bot"}, "refund-bot||"},
		{"by azp", nil, object{"sub": uuid, "client_id": nil, "azp": "refund-bot"}, "refund-bot||"},
		{"by nothing", nil, object{"sub": uuid, "client_id": nil, "name": "Refund bot"}, "||"},
		{"by the claim that is configured", configured("name", ""), object{"sub": uuid, "name": "Refund bot"}, "Refund bot||"},
		{"by a path", configured("app.title", ""), object{"sub": uuid, "app": object{"title": "Refund bot"}}, "Refund bot||"},
		{"by a pointer", configured("/app/title", ""), object{"sub": uuid, "app": object{"title": "Refund bot"}}, "Refund bot||"},
		{"a claim that is not there", configured("name", ""), object{"sub": uuid}, "||"},
		{"a person", nil, object{"sub": "p-1", "client_id": "cli", "auth_time": 1, "preferred_username": "alice", "name": "Alice A."}, "alice||"},
		{"a person with one name", nil, object{"sub": "p-1", "client_id": "cli", "auth_time": 1, "name": "Alice A."}, "Alice A.||"},
		{"a person by the claim that is configured", configured("", "name"), object{"sub": "p-1", "client_id": "cli", "auth_time": 1, "preferred_username": "alice", "name": "Alice A."}, "Alice A.||"},
		{"a person without one is not called as the client", nil, object{"sub": "p-1", "client_id": "cli", "auth_time": 1}, "||"},
		{"an agent for a person", nil, acting(nil), "refund-bot|alice|refund-bot"},
		{"an agent for a person goes by no name of the person's", configured("name", ""), acting(nil), "|alice|"},
		{"but by its own within act", configured("name", ""), acting(object{"act": object{"sub": uuid, "name": "Refund bot"}}), "Refund bot|alice|Refund bot"},
		{"each actor by its own", nil, acting(object{"act": object{"sub": uuid, "client_id": "payer", "act": object{"sub": "o", "client_id": "planner"}}}), "payer|alice|payer,planner"},

		{"a number", configured("n", "n"), object{"n": 7}, "||"},
		{"a list", configured("n", "n"), object{"n": []string{"a"}}, "||"},
		{"an object", configured("n", "n"), object{"n": object{"a": "b"}}, "||"},
		{"null", configured("n", "n"), object{"n": json.RawMessage("null")}, "||"},
		{"nothing in it", configured("n", "n"), object{"n": ""}, "||"},
		{"spaces", configured("n", "n"), object{"n": " \t\n\u00a0"}, "||"},
		{"the first that is a name", nil, object{"sub": "p-1", "client_id": "cli", "auth_time": 1, "preferred_username": 7, "name": "Alice A."}, "Alice A.||"},
		{"what acts on a terminal, as it is", configured("n", ""), object{"n": "bob\n\u202edetpmorp\u001b[2J"}, "bob\n\u202edetpmorp\u001b[2J||"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := verifier(t, a, c, tc.edit).Verify(t.Context(), sign(t, standard, with(good(a, c), tc.claims), keyRSA()))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Name + "|" + p.OnBehalfOfName + "|" + strings.Join(p.ActorNames, ","); got != tc.want {
				t.Errorf("they are called %q, want %q", got, tc.want)
			}
		})
	}
	t.Run("ten thousand bytes", func(t *testing.T) {
		v := verifier(t, a, c, configured("n", ""))
		p, err := v.Verify(t.Context(), sign(t, standard, with(good(a, c), object{"n": strings.Repeat("é", 5000)}), keyRSA()))
		if err != nil || len(p.Name) > gate.MaxClaimed || !strings.Contains(p.Name, "(10000 bytes, sha256 ") {
			t.Errorf("%d bytes, %q, %v", len(p.Name), p.Name, err)
		}
	})
}

// TestNamesOfKinds: where the client's id is one more number, or there is none, a kind's own claim says more.
func TestNamesOfKinds(t *testing.T) {
	account := object{"namespace": "payments", "serviceaccount": object{"name": "refunder", "uid": "u-1"}}
	workflow := object{"repository": "octo/pay", "repository_id": "74", "repository_owner_id": "65", "workflow_ref": "octo/pay/.github/workflows/refund.yml@refs/heads/main"}
	for _, tc := range []struct {
		kind         string
		own          string
		claims       object
		want, person string
	}{
		{"kubernetes", "", object{"sub": "system:serviceaccount:payments:refunder", "kubernetes.io": account}, "system:serviceaccount:payments:refunder", ""},
		{"github", "", with(workflow, object{"sub": "repo:octo/pay"}), "octo/pay/.github/workflows/refund.yml@refs/heads/main", ""},
		{"entra", "", object{"sub": "o", "oid": "o", "tid": tenant, "appid": app, "app_displayname": "Refund bot"}, "Refund bot", ""},
		{"entra", "", object{"sub": "o", "oid": "o", "tid": tenant, "azp": app}, app, ""},
		{"entra", "", object{"sub": "s", "oid": user, "tid": tenant, "appid": app, "scp": "x", "app_displayname": "Refund bot", "name": "Alice"}, "Refund bot", "Alice"},
		{"entra", "name", object{"sub": "s", "oid": user, "tid": tenant, "appid": app, "scp": "x", "name": "Alice"}, "", "Alice"},
		{"entra", "/name", object{"sub": "s", "oid": user, "tid": tenant, "appid": app, "scp": "x", "name": "Alice"}, "", "Alice"},
	} {
		claims, err := readObject(payloadOf(t, tc.claims))
		if err != nil {
			t.Fatal(err)
		}
		p := &gate.Principal{}
		tok := &token{claims: claims, issuer: &issuer{Issuer: Issuer{Kind: tc.kind, NameClaim: tc.own}, address: &url.URL{Path: "/" + tenant}}}
		r := &reader{claims: tok.claims}
		map[string]func(*reader, *gate.Principal){"kubernetes": tok.readKubernetes, "github": tok.readGitHub, "entra": tok.readEntra}[tc.kind](r, p)
		if tok.readNames(p); r.err != nil || p.Name != tc.want || p.OnBehalfOfName != tc.person {
			t.Errorf("%s %v: called %q for %q, %v", tc.kind, tc.claims, p.Name, p.OnBehalfOfName, r.err)
		}
	}
}

// TestANameIsNobody: two with one name are two, and one with two names is one.
func TestANameIsNobody(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c, func(i *Issuer) { i.NameClaim, i.Revoked, i.Subjects = "name", []string{"bob"}, []string{"a-1", "a-2"} })
	principal := func(subject, name string) *gate.Principal {
		t.Helper()
		p, err := v.Verify(t.Context(), sign(t, standard, with(good(a, c), object{"sub": subject, "client_id": nil, "name": name}), keyRSA()))
		if err != nil {
			t.Fatalf("%s, who is called %s: %v", subject, name, err)
		}
		return p
	}
	party := func(p *gate.Principal) gate.Party { return gate.Party{Issuer: p.Issuer, Subject: p.Subject} }
	// "bob" is revoked and "a-2" is somebody: neither is what a-1 calls itself.
	one, renamed, other := principal("a-1", "bob"), principal("a-1", "a-2"), principal("a-2", "bob")
	if party(one) != party(renamed) || party(one) == party(other) || one.Name != other.Name {
		t.Errorf("%+v, %+v and %+v", one, renamed, other)
	}
	if _, err := v.Verify(t.Context(), sign(t, standard, with(good(a, c), object{"sub": "stranger", "client_id": nil, "name": "a-1"}), keyRSA())); err == nil {
		t.Error("a stranger was let in by a name")
	}
	// The canonical input, which policy judges and an approval binds, has it in the claims and nowhere else.
	input := func(p *gate.Principal) string {
		nameless := *p
		nameless.Claims = nil
		op := &gate.Operation{Principal: &nameless, Resource: gate.Resource{Name: "r", Kind: "k"}, Detail: detail{}}
		b, err := op.Input()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if input(one) != input(renamed) {
		t.Errorf("%s and %s", input(one), input(renamed))
	}
}
