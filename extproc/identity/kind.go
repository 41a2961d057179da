package identity

import (
	"cmp"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// What a principal can be: see [gate.Principal].
const (
	kindAgent    = "agent"
	kindWorkload = "workload"
	kindPerson   = "person"
)

// kindWords are the values that a claim may have which says what a principal is, in lower case, with '-' for '_' and white space.
var kindWords = map[string]string{
	"person": kindPerson, "user": kindPerson, "human": kindPerson,
	"workload": kindWorkload,
	"agent":    kindAgent, "client": kindAgent, "service": kindAgent, "service-account": kindAgent, "serviceaccount": kindAgent,
	"service-principal": kindAgent, "serviceprincipal": kindAgent, "machine": kindAgent, "application": kindAgent, "app": kindAgent, "bot": kindAgent,
}

// saidKind is what the claim that the configuration names says of the principal; "" where the token does not have it. A value that
// is not known is an error: it must not pass for one that is absent.
func (t *token) saidKind(r *reader) string {
	name := t.issuer.KindClaim
	if name == "" {
		return ""
	}
	v, there := lookUp(t.claims, name)
	if !there || v == nil {
		return ""
	}
	s, _ := v.(string)
	kind := kindWords[strings.NewReplacer("_", "-", " ", "-").Replace(strings.ToLower(strings.TrimSpace(s)))]
	if kind == "" {
		r.fail(name, "one of "+kindPerson+", "+kindAgent+", "+kindWorkload+" and what is called so (user, client, service account, …)")
	}
	return kind
}

// shownKind is what the token shows of whom it is for. Only a token that shows a sign-in, and no mark of an account that is no
// person's, is a person's. One that shows neither is an agent's: that opens nothing which is for people alone.
func (t *token) shownKind(client string) string {
	mark := markOf(t.claims, client)
	if mark.what == "" && (signedIn(t.claims, t.issuer.name) || userOf(t.claims)) {
		return kindPerson
	}
	return cmp.Or(mark.kind, kindAgent)
}

// mark is a sign in claims that they are of an account that is no person's, or of somebody who acts for another.
type mark struct {
	what   string // in words; "" where there is none
	kind   string // of the principal, where it is not an agent
	chosen bool   // it is in a name that its owner may be able to choose
}

// markOf is the mark that claims have. client is whom the token was issued to.
func markOf(claims gate.Object, client string) mark {
	text := claims.Text
	words := func(name, word string) bool { return slices.Contains(strings.Fields(text(name)), word) }
	subject, username := text("sub"), text("preferred_username")
	switch {
	case hasName(claims, "act"):
		return mark{what: "somebody acts for its subject (act)"}
	case client != "" && (subject == client || subject == client+"@clients"): // RFC 9068, section 2.2; Auth0, Cognito, Okta, Google
		return mark{what: "its subject is the client itself"}
	case slices.ContainsFunc(grants(claims), func(g string) bool { return g == "client_credentials" }): // Auth0, FusionAuth
		return mark{what: "a client got it for itself (gty)"}
	case hasName(claims, "idtyp") && text("idtyp") != "user": // Entra ID
		return mark{what: "its subject is no user (idtyp)"}
	case hasName(claims, "oid") && text("oid") == subject: // Entra ID's app-only tokens, where idtyp is not issued
		return mark{what: "its subject is an application (oid is sub)"}
	case words("xms_sub_fct", "13"), words("xms_act_fct", "11"): // Entra ID's agent users, and agent identities that act
		return mark{what: "it is of an agent (xms_sub_fct, xms_act_fct)"}
	case hasName(claims, "clientHost"), hasName(claims, "clientAddress"): // Keycloak
		return mark{what: "its subject is a service account (clientHost, clientAddress)"}
	case client != "" && !hasName(claims, "sid") && username == "service-account-"+strings.ToLower(client): // Keycloak
		return mark{what: "its subject is a service account (preferred_username)"}
	case text("sub_type") == "client": // Oracle
		return mark{what: "its subject is a client (sub_type)"}
	case text("aut") == "APPLICATION": // WSO2
		return mark{what: "its subject is an application (aut)"}
	case hasName(claims, "kubernetes.io"), strings.HasPrefix(subject, "system:serviceaccount:"), strings.HasPrefix(subject, "spiffe://"):
		return mark{what: "its subject is a workload", kind: kindWorkload}
	case hasName(claims, "workflow_ref") && hasName(claims, "repository"), hasName(claims, "pipeline_id") && hasName(claims, "project_path"): // GitHub Actions, GitLab CI
		return mark{what: "its subject is a workload", kind: kindWorkload}
	case strings.HasPrefix(username, "service-account-"): // Keycloak
		return mark{what: "its subject is a service account (preferred_username)", chosen: true}
	case strings.HasPrefix(username, "ak-") && strings.HasSuffix(username, "-client_credentials"): // authentik
		return mark{what: "its subject is a service account (preferred_username)", chosen: true}
	case strings.HasSuffix(text("email"), ".gserviceaccount.com"): // Google
		return mark{what: "its subject is a workload", kind: kindWorkload, chosen: true}
	}
	return mark{}
}

// userOf reports whether claims name a user beside their client, as Okta's and Oracle's do where there is one.
func userOf(claims gate.Object) bool {
	uid, _ := claims.Get("uid")
	return hasName(claims, "cid") && uid != nil && uid != "" || claims.Text("sub_type") == "user"
}
