package otlp

import "github.com/countersign/countersign/extproc/gate"

// Kind makes attributes of the operations of one protocol, under the names of the semantic conventions. The attributes are sent in
// the order in which a function returns them, without those that are empty. Each function may be nil.
type Kind struct {
	Protocol string // of the operations, as their records have it

	Verb      func(verb string) string               // the verb in a span's name, one of a few; the verb itself unless set
	Operation func(decided gate.Object) gate.Object  // what was asked, by the operation.decided
	Result    func(finished gate.Object) gate.Object // how it ended, by the operation.finished
}

// kinds has the kinds by protocol.
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
