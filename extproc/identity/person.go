package identity

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// readPerson reads a token of somebody's own: the principal is the person, by the same name at both doors of a console. For
// Entra ID that is `oid` within the tenant, because `sub` is another one for each client.
func (t *token) readPerson(r *reader, p *gate.Principal) {
	p.Kind = kindPerson
	p.Subject = r.need("sub")
	p.ClientID = cmp.Or(t.clientID(r, "client_id", "azp", "appid", "cid"), p.ClientID)
	t.tenant = r.text("tid")
	if t.issuer.Kind == "entra" {
		p.Subject = r.need("oid")
		t.checkEntraTenant(r)
	}
	p.People = []gate.Person{t.person(t.claims, p.ClientID)}
}

// person is how the human being whom claims are about is told from others. client is whom the token was issued to.
func (t *token) person(claims gate.Object, client string) gate.Person {
	text := claims.Text
	p := gate.Person{Directory: t.issuer.name, ID: text("sub"), Shared: t.issuer.PersonClaim != "", Claim: shared(claims, t.issuer.PersonClaim)}
	switch {
	case t.issuer.Kind == "entra":
		p.Directory, p.ID = entraDirectory(text("tid")), text("oid")
	case text("oid") != "" && text("tid") != "": // Entra ID's too: its `sub` is another for each client
		p.Directory += " for client " + client
	case text("cid") != "" && text("uid") != "": // Okta's access tokens have the login as `sub`, its ID tokens the id
		p.ID = text("uid")
	}
	return p
}

// shared is the value of the claim that is the same for one person at every issuer. An e-mail address that the issuer has not
// verified is none.
func shared(claims gate.Object, name string) string {
	v, _ := lookUp(claims, name)
	if n, ok := v.(json.Number); ok {
		v = string(n)
	}
	s, _ := v.(string)
	if s = strings.TrimSpace(s); name == "" || len(s) > maxText || !printable(s) {
		return ""
	}
	if verified, there := claims.Get("email_verified"); name == "email" && there && verified != true && verified != "true" {
		return ""
	}
	return s
}

func entraDirectory(tenant string) string { return "entra:" + tenant }

// Directory is the [gate.Person] Directory of the people of an issuer, as far as its configuration tells; "" where people cannot
// be told apart by the ids of its tokens.
func Directory(i Issuer) string {
	u, err := url.Parse(i.Issuer)
	if err != nil {
		return ""
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case i.Kind == "entra":
		return entraDirectory(tenant)
	case i.Kind != "" || slices.ContainsFunc(entraHosts, func(h string) bool { return u.Hostname() == h || strings.HasSuffix(u.Hostname(), "."+h) }):
		return ""
	default:
		return i.Issuer
	}
}

// TellsApart reports whether the people whom agents of an issuer act for can be told from those of people: by a claim that both
// configurations name, or because the ids of both are of one directory. Issuers of workloads and certificates name nobody whom
// an agent acts for.
func TellsApart(agents, people Issuer) bool {
	if agents.Kind != "" && agents.Kind != "entra" || agents.PersonClaim != "" && people.PersonClaim != "" {
		return true
	}
	directory := Directory(agents)
	return directory != "" && directory == Directory(people)
}

// entraHosts are those of Entra ID and of its national clouds.
var entraHosts = []string{"login.microsoftonline.com", "sts.windows.net", "ciamlogin.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"}

// checkPerson tells a person's own token from all else that their issuer signs. It must have been issued to a client that
// people use, have no mark of an account that is no person's, and show that somebody signed in. That is not what the issuer
// calls its subject, but what it says of an authentication: names, e-mail addresses, groups, acr and scopes are given to
// machines too.
func (t *token) checkPerson() *Refusal {
	if len(t.issuer.Clients) == 0 {
		return nil
	}
	refuse := func(format string, args ...any) *Refusal {
		return &Refusal{Reason: NotAPerson, Detail: excerpt(fmt.Sprintf(format, args...))}
	}
	client := t.principal.ClientID
	if mark := markOf(t.claims, client).what; mark != "" {
		return refuse("the token is good, and not a person's own: %s", mark)
	}
	switch {
	case client == "":
		return refuse("the token does not say to which client it was issued (azp, client_id, appid or cid)")
	case !slices.Contains(t.issuer.Clients, client):
		return refuse("the token was issued to the client %q, which is not one that people approve with (people.clients)", client)
	case !signedIn(t.claims, t.issuer.name):
		return refuse("nothing in the token shows that a person signed in: have the issuer put auth_time, amr or sid into it")
	}
	return nil
}

// grants are the grant types by which a token was got, where it says so.
func grants(claims gate.Object) []string {
	v, _ := claims.Get("gty")
	list, _ := texts(v)
	list = slices.Clone(list)
	for i, g := range list {
		list[i] = strings.ReplaceAll(strings.ToLower(g), "-", "_")
	}
	return list
}

// signedIn reports whether claims show that a person has authenticated: how (amr), in which session (sid), when (auth_time), by
// a grant that takes a person, or, at Entra ID and Auth0, by what only a user's token has.
//
// authentik gives service accounts an auth_time too; the acr that all its tokens have tells whose they are.
func signedIn(claims gate.Object, issuer string) bool {
	get := func(name string) any { v, _ := claims.Get(name); return v }
	text := claims.Text
	list := func(name string) []string { s, _ := texts(get(name)); return s }
	if methods := list("amr"); len(methods) > 0 && !slices.Contains(methods, "") {
		return true
	}
	if text("sid") != "" || text("session_state") != "" || text("idtyp") == "user" {
		return true
	}
	if when, ok := get("auth_time").(json.Number); ok && !strings.HasPrefix(text("acr"), "goauthentik.io/") {
		seconds, err := when.Float64()
		return err == nil && seconds > 0
	}
	if slices.ContainsFunc(grants(claims), func(g string) bool {
		return slices.Contains([]string{"authorization_code", "device_code", "implicit"}, g)
	}) {
		return true
	}
	if text("oid") != "" && text("tid") != "" && text("scp") != "" { // Entra ID, delegated
		return true
	}
	userinfo := strings.TrimSuffix(issuer, "/") + "/userinfo" // Auth0: a second audience, of those whom it can describe
	return slices.Contains(list("aud"), userinfo) && slices.Contains(strings.Fields(text("scope")), "openid")
}

// ReadIDToken reads the claims of an ID token that was verified, and issued to client: whom it is for, named as a bearer
// token of theirs would name them, with their groups. i says how the issuer's claims are read; its Clients are not looked at.
func ReadIDToken(i Issuer, payload []byte, client string) (*gate.Principal, error) {
	claims, err := readObject(payload)
	if err != nil {
		return nil, fmt.Errorf("the ID token's claims cannot be read in one way only: %w", err)
	}
	address, err := url.Parse(i.Issuer)
	if err != nil {
		return nil, fmt.Errorf("the issuer is no URL: %w", err)
	}
	i.GroupsClaim = cmp.Or(i.GroupsClaim, "groups")
	t := &token{claims: claims, issuer: &issuer{Issuer: i, name: i.Issuer, address: address}}
	r := &reader{claims: claims}
	p := &gate.Principal{Issuer: i.Issuer, ClientID: client}
	t.readPerson(r, p)
	t.readNames(p)
	p.Groups = t.set(r, i.GroupsClaim)
	if r.err != nil {
		return nil, fmt.Errorf("the ID token does not name a person: %w", r.err)
	}
	if mark := markOf(claims, client).what; mark != "" {
		return nil, fmt.Errorf("the ID token is not a person's own: %s", mark)
	}
	return p, nil
}
