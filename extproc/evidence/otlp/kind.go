package otlp

import "github.com/countersign/countersign/extproc/gate"

// Kind is what the attributes of a span say of operations of one protocol, by the names that the semantic conventions have. What a
// function returns is in the order in which it is sent; what is empty is left out.
type Kind struct {
	Protocol string // of the operations, as their records have it

	Verb      func(verb string) string               // one of a few, for the name of a span, where an agent can send any; nil for the verb itself
	Operation func(decided gate.Object) gate.Object  // what was asked, by the operation.decided; nil for nothing
	Result    func(finished gate.Object) gate.Object // how it ended, by the operation.finished; nil for nothing
}

// kinds are the kinds by protocol.
type kinds map[string]Kind

func kindsOf(list []Kind) kinds {
	all := kinds{}
	for _, k := range list {
		all[k.Protocol] = k
	}
	return all
}

func (a *attributes) all(say func(body gate.Object) gate.Object, body gate.Object) {
	if say == nil {
		return
	}
	for _, m := range say(body) {
		a.add(m.Name, anyValue(m.Value))
	}
}
