package identity

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// usualNames are the claims that have what an agent is called, where the configuration names none and the kind has a better one
// than the client's id.
var usualNames = map[string]string{"entra": "app_displayname", "kubernetes": "sub", "github": "workflow_ref"}

// usualPersonNames are those of a person, the better first.
var usualPersonNames = []string{"preferred_username", "name"}

// readNames reads what the parties of a principal are called. Names decide nothing, so nothing that is wrong with one refuses.
//
// In a token by which an agent acts for a person the claims are about the person, but for those within `act`, or that only a
// client has: an agent does not go by its person's name.
func (t *token) readNames(p *gate.Principal) {
	persons, own := orUsual(t.issuer.PersonNameClaim, usualPersonNames...), t.issuer.NameClaim
	person := nameIn(t.claims, persons...)
	switch {
	case p.Kind == kindPerson && p.OnBehalfOf == nil && own == "":
		p.Name = person
		return
	case len(p.ActorNames) > 0:
		p.Name = p.ActorNames[0]
	case p.OnBehalfOf == nil || !slices.Contains(persons, own) && !slices.Contains(usualPersonNames, own):
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

// nameIn is the first of these claims that is a name: text that is not empty. A long one is cut as records cut it.
func nameIn(claims gate.Object, names ...string) string {
	for _, name := range names {
		v, _ := lookUp(claims, name)
		if s, ok := v.(string); ok && strings.TrimSpace(s) != "" {
			return gate.Recorded(s, gate.MaxClaimed)
		}
	}
	return ""
}
