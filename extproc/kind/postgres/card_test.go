package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind"
)

func statementOf(text string, parameters ...any) gate.Object {
	return gate.Object{
		{Name: "database", Value: "orders"},
		{Name: "earlier", Value: "ab"},
		{Name: "has_where", Value: false},
		{Name: "index", Value: 0},
		{Name: "kind", Value: "update"},
		{Name: "of", Value: 1},
		{Name: "parameters", Value: parameters},
		{Name: "reads", Value: []any{gate.Object{{Name: "columns", Value: []string{"id", "Full Name"}}, {Name: "schema", Value: "public"}, {Name: "table", Value: `x. It reads nothing`}}}},
		{Name: "role", Value: "app"},
		{Name: "search_path", Value: []string{"public"}},
		{Name: "text", Value: text},
		{Name: "transaction", Value: "open"},
		{Name: "writes", Value: []any{gate.Object{{Name: "columns", Value: []string{"name"}}, {Name: "schema", Value: "public"}, {Name: "table", Value: "items"}}}},
	}
}

func parameterOf(name string, value any) gate.Object {
	return gate.Object{{Name: "type", Value: name}, {Name: "value", Value: value}}
}

// TestCardOfAStatement: a card has each value where it stands, as nothing else could be read, and says what the statement does.
func TestCardOfAStatement(t *testing.T) {
	detail := statementOf("UPDATE items SET name = $1, n = $2 -- $1\nWHERE x = $3 OR '$1' = $4", parameterOf("text", `" OR true --`), parameterOf("int4", "7"), parameterOf("text", nil),
		gate.Object{{Name: "base64", Value: "AAE="}, {Name: "type", Value: ""}})
	var got strings.Builder
	for _, c := range laidOut(detail) {
		switch {
		case c.Line:
			got.WriteString("\n")
		case c.Space:
			got.WriteString(" ")
		}
		if c.Class == kind.CodeValue {
			got.WriteString("⟦" + c.Text + "⟧")
			continue
		}
		got.WriteString(c.Text)
	}
	want := "UPDATE items\nSET name = $1⟦text \"\\\" OR true --\"⟧, n = $2⟦int4 \"7\"⟧\n-- $1\nWHERE x = $3⟦text NULL⟧ OR '$1' = $4⟦bytes that cannot be read⟧"
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("the statement is laid out so:\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"It changes rows of public.items (name).",
		"No WHERE that names a column chooses which rows: it can be all of them.",
		`It reads public."x. It reads nothing" (id, "Full Name").`,
		"It runs as the role app in the database orders.",
		"Names without a schema are looked up in public.",
		"It is part of a transaction that is open, and has changed something before.",
	}, inWords(detail)); diff != "" {
		t.Errorf("the card says:\n%s", diff)
	}
	if list := laidOut(statementOf("SELECT 'open")); list != nil {
		t.Errorf("what cannot be told apart is laid out as %v", list)
	}
}
