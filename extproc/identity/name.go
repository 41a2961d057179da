package identity

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// usualNames are, by kind, the claims with an agent's name that are better than the client's id. They count where the configuration
// names no claim.
var usualNames = map[string]string{"entra": "app_displayname", "kubernetes": "sub", "github": "workflow_ref"}

// usualPersonNames are the claims with a person's name, the better one first.
var usualPersonNames = []string{"preferred_username", "name"}

// readNames reads the names of a principal and of those it acts for and through. A name decides nothing, so a claim that cannot be
// a name gives no name, and never a refusal.
//
// If an agent acts for a person, the claims outside `act` are the person's, so the agent's name is read from `act` only, or from a
// claim that only clients have.
func (t *token) readNames(p *gate.Principal) {
	persons, own := orUsual(t.issuer.PersonNameClaim, usualPersonNames...), t.issuer.NameClaim
	person := nameIn(t.claims, persons...)
	isPersons := slices.ContainsFunc(slices.Concat(persons, usualPersonNames), func(name string) bool {
		return slices.Equal(find(t.claims, name), find(t.claims, own)) // however each is written
	})
	switch {
	case p.Kind == kindPerson && p.OnBehalfOf == nil && own == "":
		p.Name = person
		return
	case len(p.ActorNames) > 0:
		p.Name = p.ActorNames[0]
	case p.OnBehalfOf == nil || own == "" || !isPersons:
		p.Name = nameIn(t.claims, orUsual(own, usualNames[t.issuer.Kind])...)
	}
	if p.Name == "" && own == "" {
		p.Name = gate.Recorded(p.ClientID, gate.MaxClaimed)
	}
	if p.OnBehalfOf != nil {
		p.OnBehalfOfName = person
		p.ActorNames = append([]string{p.Name}, p.ActorNames[min(1, len(p.ActorNames)):]...)
	}
}

func orUsual(configured string, usual ...string) []string {
	if configured != "" {
		return []string{configured}
	}
	return usual
}

// nameIn returns the first of these claims that is text and not blank, cut as records cut a long text; "" if there is none.
func nameIn(claims gate.Object, names ...string) string {
	for _, name := range names {
		v, _ := lookUp(claims, name)
		if s, ok := v.(string); ok && strings.TrimSpace(s) != "" {
			return gate.Recorded(s, gate.MaxClaimed)
		}
	}
	return ""
}
