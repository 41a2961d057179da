package approval

import "testing"

// TestAGroupIsNoSubject: a name is a group, "subject:ID" is a person, and neither is ever taken for the other.
func TestAGroupIsNoSubject(t *testing.T) {
	for _, c := range []struct {
		name     string
		approver string // of the rule
		by       Approver
		want     bool
	}{
		{"a group of theirs", "oncall", Approver{Subject: "bob", Groups: []string{"staff", "oncall"}}, true},
		{"the person", "subject:bob", Approver{Subject: "bob"}, true},
		{"a subject that is a group's name", "oncall", Approver{Subject: "oncall", Groups: []string{"staff"}}, false},
		{"a group that is a person's subject", "subject:bob", Approver{Subject: "mallory", Groups: []string{"bob"}}, false},
		{"a group that is called like the rule's person", "subject:bob", Approver{Subject: "mallory", Groups: []string{"subject:bob"}}, false},
		{"a subject that is the rule's whole word", "subject:bob", Approver{Subject: "subject:bob"}, false},
		{"a subject with the word in it", "subject:subject:bob", Approver{Subject: "subject:bob"}, true},
		{"a subject in another case", "subject:bob", Approver{Subject: "Bob"}, false},
		{"nobody", "subject:", Approver{Subject: "", Groups: []string{"", "subject:"}}, false},
		{"no group", "", Approver{Subject: "", Groups: []string{""}}, false},
	} {
		rule := AskRule{Approvers: []string{c.approver}}
		if got := rule.Names(&c.by); got != c.want {
			t.Errorf("%s: %q names %+v: %t", c.name, c.approver, c.by, got)
		}
	}
}
