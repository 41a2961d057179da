package identity

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// maxActors is the longest chain of actors that is accepted.
const maxActors = 8

// readPrincipal maps the verified claims to a principal, as the issuer's kind says.
func (t *token) readPrincipal() *Refusal {
	r := &reader{claims: t.claims}
	p := &gate.Principal{Issuer: t.issuer.name}
	switch kind := t.issuer.Kind; {
	case len(t.issuer.Clients) > 0:
		t.readPerson(r, p)
	case kind == "entra":
		t.readEntra(r, p)
	case kind == "kubernetes":
		t.readKubernetes(r, p)
	case kind == "github":
		t.readGitHub(r, p)
	case kind == "spiffe":
		t.readSPIFFE(r, p)
	default:
		t.readGeneric(r, p)
	}
	if len(t.issuer.Clients) == 0 {
		p.Kind = cmp.Or(t.saidKind(r), p.Kind)
	}
	t.readNames(p)
	p.Groups = t.set(r, t.issuer.GroupsClaim)
	p.Roles = t.set(r, t.issuer.RolesClaim)
	p.Claims = stable(t.claims, t.issuer)
	p.Verified = gate.Verification{
		Method: "oidc", Algorithm: t.algorithm, KeyID: t.key.id, Digest: signedDigest(t.raw), Tenant: t.tenant,
		Expires: t.expires, Accepted: t.expires.Add(t.issuer.Skew),
	}
	p.Verified.TokenID = cmp.Or(r.text("jti"), p.Verified.Digest)
	if r.err == nil {
		r.err = p.Seal() // a number that has no canonical form, for one
	}
	if r.err == nil && !p.Known() {
		r.err = errors.New("they name no subject")
	}
	if r.err != nil {
		return &Refusal{Reason: Claims, Detail: "the claims do not name a principal: " + excerpt(r.err.Error())}
	}
	t.principal = p
	return nil
}

// set is a claim's texts, sorted and without repetitions: an issuer may list the same groups in another order next
// time, and an approval must still bind.
//
// Groups that the issuer left out because they were too many are an error: a rule that denies a group would not apply.
func (t *token) set(r *reader, name string) []string {
	if overage, ok := lookUp(t.claims, "_claim_names"); ok {
		if names, ok := overage.(gate.Object); !ok || leftOut(names, name) {
			r.fail(name, "in the token: the issuer left it out because it is too long (_claim_names); have it issue fewer")
		}
	}
	if v, there := t.claims.Get("hasgroups"); there && v != false && v != "false" && name == t.issuer.GroupsClaim {
		r.fail(name, "in the token: the issuer left it out because it is too long (hasgroups); have it issue fewer")
	}
	list := slices.Clone(r.list(name))
	slices.Sort(list)
	return slices.Compact(list)
}

// leftOut reports whether among the names of whole claims is one that name is, or leads through.
func leftOut(names gate.Object, name string) bool {
	pointer, isPointer := strings.CutPrefix(name, "/")
	first, _, _ := strings.Cut(pointer, "/")
	return slices.ContainsFunc(names, func(m gate.Member) bool {
		return m.Name == name || isPointer && m.Name == unescapePointer.Replace(first) || !isPointer && strings.HasPrefix(name, m.Name+".")
	})
}

func hasName(o gate.Object, name string) bool {
	_, there := o.Get(name)
	return there
}

// signedDigest is the SHA-256 of the part of the token that is signed, in hex. The signature is left out, because anybody
// can make a second valid one from an ECDSA signature (r, s): (r, n-s). A revoked token would have come back under
// another digest.
func signedDigest(raw string) string {
	signed := raw[:strings.LastIndexByte(raw, '.')]
	sum := sha256.Sum256([]byte(signed))
	return hex.EncodeToString(sum[:])
}

// readGeneric reads RFC 9068 access tokens, and RFC 8693 ones where somebody acts for the subject.
//
// Without an actor, the claims show what the subject is, or one of them says so: see shownKind and saidKind.
func (t *token) readGeneric(r *reader, p *gate.Principal) {
	p.Subject = r.need("sub")
	p.ClientID = t.clientID(r, "client_id", "azp", "appid", "cid")
	t.tenant = r.text("tid")
	p.Kind = kindAgent
	if act := r.object("act"); act != nil {
		p.People = []gate.Person{t.person(t.claims, p.ClientID)}
		t.readActors(r, p, act)
		return
	}
	said := t.saidKind(r)
	p.Kind = cmp.Or(said, t.shownKind(p.ClientID))
	// Whoever may be a person is held against who approves, whatever else the token is: who is not known to be none, and who has the
	// claim by which people are told apart.
	who, mark := t.person(t.claims, p.ClientID), markOf(t.claims, p.ClientID)
	unknown := said == "" && (mark.what == "" || mark.chosen)
	signed := p.Subject != p.ClientID && signedIn(t.claims, t.issuer.name) // Cognito's clients have an auth_time too
	if p.Kind == kindPerson || unknown || signed || who.Claim != "" {
		p.People = []gate.Person{who}
	}
}

// clientID is the client that the token was issued to, under any of its names. Two that differ are an error.
func (t *token) clientID(r *reader, names ...string) string {
	var id string
	for _, name := range names {
		next := r.text(name)
		if id != "" && next != "" && next != id {
			r.fail(name, "the same as the claim with the client's other name")
		}
		if id == "" {
			id = next
		}
	}
	return id
}

// readActors makes the current actor the principal and the subject the person acted for (RFC 8693, section 4.1). The
// current actor has to be one of this issuer's subjects: it has no word on anybody else's. Earlier actors are
// hearsay, and may be anybody's.
func (t *token) readActors(r *reader, p *gate.Principal, act gate.Object) {
	p.OnBehalfOf = &gate.Party{Issuer: p.Issuer, Subject: p.Subject}
	for act != nil {
		if len(p.Actors) == maxActors {
			r.err = fmt.Errorf("more than %d parties act in a row", maxActors)
			return
		}
		actor := reader{claims: act}
		if who := t.person(act, p.ClientID); who.Claim != "" { // a client has none
			p.People = append(p.People, who)
		}
		party := gate.Party{Issuer: cmp.Or(actor.text("iss"), p.Issuer), Subject: actor.need("sub")}
		p.ActorNames = append(p.ActorNames, nameIn(act, orUsual(t.issuer.NameClaim, "client_id")...))
		act = actor.object("act")
		if actor.err != nil {
			r.err = fmt.Errorf("act: %w", actor.err)
			return
		}
		p.Actors = append(p.Actors, party)
	}
	if p.Actors[0].Issuer != p.Issuer {
		r.err = fmt.Errorf("the acting party is of issuer %q, for which this issuer cannot speak", excerpt(p.Actors[0].Issuer))
		return
	}
	p.Subject = p.Actors[0].Subject
}

// readEntra reads Entra ID's access tokens. An app-only one is for the service principal `oid`. A delegated one (it has
// `scp`) is for a client that acts for the user `oid`: the principal is the client, by its application id, which for an
// agent identity is the id of the agent. `idtyp` is an optional claim: without it, only `oid` equal to `sub` says
// app-only.
//
// The facets (xms_act_fct, xms_sub_fct, xms_par_app_azp) stay in the claims; Microsoft asks not to authorise by them.
func (t *token) readEntra(r *reader, p *gate.Principal) {
	object := r.need("oid")
	subject := r.need("sub")
	p.ClientID = t.clientID(r, "azp", "appid")
	p.Kind = kindAgent
	t.checkEntraTenant(r)
	kind, scope := r.text("idtyp"), r.text("scp")
	switch {
	case scope != "" && kind != "app":
		if p.ClientID == "" {
			r.fail("azp", "there, so the client that acts for the user is not known")
		}
		p.Subject = p.ClientID
		p.OnBehalfOf = &gate.Party{Issuer: p.Issuer, Subject: object}
		p.People = []gate.Person{t.person(t.claims, p.ClientID)}
		p.Actors = []gate.Party{{Issuer: p.Issuer, Subject: p.ClientID}}
	case scope == "" && (kind == "app" || kind == "" && object == subject):
		p.Subject = object
	default:
		r.fail("idtyp", "\"app\", and there is no \"scp\" either: this is neither an app's own token nor a delegated one (have the issuer include idtyp)")
	}
}

func (t *token) checkEntraTenant(r *reader) {
	t.tenant = r.need("tid")
	if !slices.Contains(strings.Split(t.issuer.address.Path, "/"), t.tenant) {
		r.fail("tid", "the tenant in the issuer's name")
	}
}

// readKubernetes reads the bound tokens of service accounts. A name can be deleted and given to another account; the
// uid cannot.
func (t *token) readKubernetes(r *reader, p *gate.Principal) {
	subject := r.need("sub")
	own := reader{claims: r.object("kubernetes.io")}
	account := reader{claims: own.object("serviceaccount")}
	t.tenant = own.need("namespace")
	name := account.need("name")
	p.Subject = account.need("uid")
	p.Kind = kindWorkload
	for _, err := range []error{own.err, account.err} {
		if r.err == nil && err != nil {
			r.err = fmt.Errorf("kubernetes.io: %w", err)
		}
	}
	if subject != "system:serviceaccount:"+t.tenant+":"+name {
		r.fail("sub", "that of the service account in kubernetes.io")
	}
}

// readGitHub reads the tokens of GitHub Actions. The principal is a workflow at a ref of a repository, by the ids of
// the repository and its owner, in the form that GitHub's own customised subjects have:
// repository_owner_id:65:repository_id:74:workflow:.github/workflows/deploy.yml@refs/heads/main.
func (t *token) readGitHub(r *reader, p *gate.Principal) {
	r.need("sub")
	owner, repository := r.need("repository_owner_id"), r.need("repository_id")
	for _, c := range []struct{ name, value string }{{"repository_owner_id", owner}, {"repository_id", repository}} {
		if c.value == "" || strings.Trim(c.value, "0123456789") != "" {
			r.fail(c.name, "a number, as text")
		}
	}
	workflow, ok := strings.CutPrefix(r.need("workflow_ref"), r.need("repository")+"/")
	if !ok || workflow == "" {
		r.fail("workflow_ref", "of the token's own repository")
	}
	t.tenant = owner
	p.Subject = "repository_owner_id:" + owner + ":repository_id:" + repository + ":workflow:" + workflow
	p.Kind = kindWorkload
}

// readSPIFFE reads JWT-SVIDs. The trust domain is the tenant, unless it has already chosen the issuer.
func (t *token) readSPIFFE(r *reader, p *gate.Principal) {
	p.Subject = r.need("sub")
	p.Kind = kindWorkload
	domain, path, ok := cutSPIFFE(p.Subject)
	if !ok || path == "" {
		r.fail("sub", "the SPIFFE id of a workload")
	}
	t.tenant = domain
}

// cutSPIFFE splits a SPIFFE id (SPIFFE-ID, section 2). It takes no id with a segment that another reader could see
// differently.
func cutSPIFFE(id string) (domain, path string, ok bool) {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path, _ = strings.Cut(rest, "/")
	if !ok || domain == "" || strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return "", "", false
	}
	if strings.Contains(rest, "/") {
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, notInSPIFFEPath) {
				return "", "", false
			}
		}
	}
	return domain, path, true
}

func notInSPIFFEPath(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
}

// volatile claims change when the same token is issued again.
var volatile = map[string]bool{
	"exp": true, "iat": true, "nbf": true, "jti": true, "auth_time": true, "nonce": true, "txn": true,
	"at_hash": true, "c_hash": true, "s_hash": true, "sid": true, "session_state": true,
	"aio": true, "rh": true, "uti": true, "xms_ftd": true, "ipaddr": true, "in_corp": true, // Entra
	"run_attempt": true, "check_run_id": true, // GitHub: another attempt of the same run
}

// stable are the claims that an approval may bind: those that are not volatile, with lists that are sets in order.
// `warnafter` is the time after which Kubernetes wants a token renewed.
func stable(claims gate.Object, i *issuer) gate.Object {
	kept := make(gate.Object, 0, len(claims))
	for _, name := range []string{i.GroupsClaim, i.RolesClaim} {
		claims = sortedAt(claims, find(claims, name))
	}
	for _, m := range claims {
		if volatile[m.Name] {
			continue
		}
		switch m.Name {
		case "aud", "amr", "wids":
			m.Value = sorted(m.Value)
		case "xms_act_fct", "xms_sub_fct", "xms_tnt_fct", "xms_idrel": // sets, in a text
			if s, ok := m.Value.(string); ok {
				words := strings.Fields(s)
				slices.Sort(words)
				m.Value = strings.Join(words, " ")
			}
		case "kubernetes.io":
			if o, ok := m.Value.(gate.Object); ok {
				m.Value = slices.DeleteFunc(slices.Clone(o), func(m gate.Member) bool { return m.Name == "warnafter" })
			}
		}
		kept = append(kept, m)
	}
	return kept
}

// sortedAt is o with the list that the steps lead to in order.
func sortedAt(o gate.Object, steps []string) gate.Object {
	if len(steps) == 0 {
		return o
	}
	o = slices.Clone(o)
	for n := range o {
		if o[n].Name != steps[0] {
			continue
		}
		if inner, ok := o[n].Value.(gate.Object); ok && len(steps) > 1 {
			o[n].Value = sortedAt(inner, steps[1:])
		} else {
			o[n].Value = sorted(o[n].Value)
		}
	}
	return o
}

func sorted(v any) any {
	if _, ok := v.([]any); !ok {
		return v
	}
	list, ok := texts(v)
	if !ok {
		return v
	}
	slices.Sort(list)
	return slices.Compact(list)
}
