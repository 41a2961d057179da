package policy

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// TestCardOfARedaction: a value is hidden from those who approve unless its redaction says that it is not.
func TestCardOfARedaction(t *testing.T) {
	for text, want := range map[string]bool{
		`{"path": "$.a"}`: false, `{"path": "$.a", "card": true}`: false, `{"path": "$.a", "card": false}`: true, `{"detect": "email", "with": "null", "card": false}`: true,
	} {
		term, err := ast.ParseTerm(text)
		if err != nil {
			t.Fatal(err)
		}
		e, err := decodeElement(redactSet, term.Value)
		if err != nil || e.redaction().OnCard != want {
			t.Errorf("%s: on the card %t, %v", text, !want, err)
		}
	}
}
