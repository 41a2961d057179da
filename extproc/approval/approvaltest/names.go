package approvaltest

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/approval"
)

// testNames: people and agents are told apart by issuer and subject, whatever they are called, and records say both.
func testNames(t *testing.T, o *office) {
	called := func(subject, name string) approval.Approver {
		by := Oncall(subject)
		by.Name = name
		return by
	}
	answer := func(r approval.Request, by approval.Approver) (approval.Request, error) {
		return o.desks[1].Decide(t.Context(), by, r.ID, approval.Answer{Approve: true, Card: r.CardDigest})
	}
	v := Verdict("p1", 2)
	op := Operation(1) // of agent-7 for alice
	op.Principal.Name, op.Principal.OnBehalfOfName, op.Principal.ActorNames = "bob", "Approved", []string{"bob", "dan\u202e"}
	r := o.ask(t, op, v)
	if r.AgentName != "bob" || r.OnBehalfOfName != "Approved" || !strings.Contains(string(r.Card), `"name":{"text":"Approved"}`) || !strings.Contains(string(r.Card), `"name":{"notes":["bidirectional controls"],"text":"dan\\u{202E}"}`) {
		t.Errorf("they are called %q and %q, and the card is %s", r.AgentName, r.OnBehalfOfName, r.Card)
	}
	renamed := Operation(1)
	renamed.Principal.Name = "somebody else"
	if again, joined, err := o.desks[1].Ask(t.Context(), Asking(renamed, v)); err != nil || !joined || again.ID != r.ID || again.AgentName != "bob" {
		t.Errorf("under another name it joined %t: %s, %v", joined, again.ID, err)
	}
	_, err := answer(r, called("alice", "carol"))
	wantError(t, err, approval.ErrOwnOperation)
	_, err = answer(r, called("eve", "u-payments")) // who is no approver by a name
	if err != nil {
		t.Fatal(err)
	}
	_, err = answer(r, called("eve", "bob"))
	wantError(t, err, approval.ErrDecidedAlready)
	stranger := approver("mallory")
	stranger.Name = "carol" // whom the rule names, by her subject
	_, err = answer(r, stranger)
	wantError(t, err, approval.ErrNotApprover)
	if got, err := answer(r, called("bob", "u-payments")); err != nil || got.State != approval.Approved {
		t.Fatalf("two people of one name, and the one whose name the agent takes: %s, %v", got.State, err)
	}
	again := Operation(1)
	again.Principal.Name = "a third name"
	if !o.spend(t, again, v) {
		t.Error("a new name took the approval away")
	}
	for kind, wants := range map[string][]string{
		approval.RecordRequested: {`"agent":{"issuer":"` + People + `","name":"bob","subject":"agent-7"}`, `"on_behalf_of":{"issuer":"` + People + `","name":"Approved","subject":"alice"}`},
		approval.RecordDecided:   {`"issuer":"` + People + `","name":"u-payments","subject":"eve"}`, `"decision":"refused"`},
		approval.RecordSpent:     {`"name":"u-payments","subject":"eve"}`, `"name":"u-payments","subject":"bob"}`},
	} {
		var text strings.Builder
		for _, l := range o.lines(kind) {
			text.WriteString(l.Text)
		}
		for _, want := range wants {
			if !strings.Contains(text.String(), want) {
				t.Errorf("no %s in %s", want, text.String())
			}
		}
	}
}
