package otlp

import "github.com/countersign/countersign/extproc/evidence"

// Kind makes attributes of the operations of one protocol, under the names of the semantic conventions. The attributes are sent in
// the order in which a function says them. Each function may be nil.
type Kind struct {
	Protocol string // of the operations, as their records have it

	Verb      func(verb string) string        // the verb in a span's name, one of a few; the verb itself unless set
	Operation func(decided Members, say Say)  // what was asked, by the operation.decided
	Result    func(finished Members, say Say) // how it ended, by the operation.finished
}

// Members are those of a record's body.
type Members = evidence.Members

// Value is the value of one.
type Value = evidence.Value

// Say adds an attribute, unless its value is empty. The value can be one of the record's.
type Say func(name string, value Value)

// kinds has the kinds by protocol.
type kinds map[string]Kind

func kindsOf(list []Kind) kinds {
	all := kinds{}
	for _, k := range list {
		all[k.Protocol] = k
	}
	return all
}

// of returns the kind of an operation; the zero Kind if there is none.
func (k kinds) of(body evidence.Members) Kind {
	protocol := body.Get("protocol")
	if !protocol.IsText() {
		return k[""]
	}
	return k[string(protocol[1:len(protocol)-1])]
}
