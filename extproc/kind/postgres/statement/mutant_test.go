package statement_test

import (
	"errors"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

var word = regexp.MustCompile(`\$?\w+|'[^']*'|::|\S`)

// testMutants mixes the words of the cases into other statements, and holds that those that are judged read can run in a read-only
// transaction without a transaction id. What the server refuses for any other reason is no matter.
func testMutants(t *testing.T, s *server, cat *statement.Catalog, st *statement.State) {
	var texts [][]string
	var words []string
	for _, path := range caseFiles(t) {
		for _, c := range readCases(t, path) {
			if len(c.setup) == 0 && len(c.sql) < 400 {
				list := word.FindAllString(c.sql, -1)
				texts, words = append(texts, list), append(words, list...)
			}
		}
	}
	slices.Sort(words)
	words = slices.Compact(words) // each word as likely as any other
	conn := s.connect(t, "one", "agent")
	mustRun(t, conn, "SET statement_timeout = 2000")
	mustRun(t, conn, "SET default_transaction_read_only = on")
	r := rand.New(rand.NewPCG(3, 0))
	n, parsed, reads, ran := 30_000, 0, 0, 0
	for range n {
		list := slices.Clone(texts[r.IntN(len(texts))])
		for range 1 + r.IntN(3) {
			switch i := r.IntN(len(list)); r.IntN(4) {
			case 0:
				list = slices.Insert(list, i, words[r.IntN(len(words))])
			case 1:
				other := texts[r.IntN(len(texts))]
				from := r.IntN(len(other))
				list = slices.Concat(list[:i], other[from:from+r.IntN(len(other)-from+1)], list[i:])
			default:
				list[i] = words[r.IntN(len(words))]
			}
		}
		sql := strings.Join(list, " ")
		parts, err := statement.Parse(sql, true)
		if err != nil || len(parts) != 1 {
			continue
		}
		parsed++
		a, err := parts[0].Analyze(cat, st)
		if err != nil {
			t.Errorf("%s\n%v", sql, err)
		}
		if a.Access != statement.Read || a.Kind == "copy" {
			continue
		}
		reads++
		results, err := conn.Exec(t.Context(), "BEGIN; "+sql+"; SELECT txid_current_if_assigned()").ReadAll()
		var e *pgconn.PgError
		switch {
		case err == nil:
			ran++
			for i, f := range results[1].FieldDescriptions {
				if i < len(a.Output) && (a.Output[i].Name != f.Name || a.Output[i].Type != 0 && a.Output[i].Type != f.DataTypeOID) {
					t.Errorf("%s\nanswers %q of type %d, and the server %q of type %d", sql, a.Output[i].Name, a.Output[i].Type, f.Name, f.DataTypeOID)
				}
			}
			if last := results[len(results)-1]; len(last.Rows) != 1 || last.Rows[0][0] != nil {
				t.Errorf("%s\nis judged read, and has a transaction id\n%s", sql, strings.Join(shown(a), "\n"))
			}
		case errors.As(err, &e) && e.Code == "25006":
			t.Errorf("%s\nis judged read, and writes: %v\n%s", sql, err, strings.Join(shown(a), "\n"))
		case !errors.As(err, &e):
			t.Fatalf("%s\n%v", sql, err)
		}
		mustRun(t, conn, "ROLLBACK")
	}
	t.Logf("%d of %d could be parsed, %d were judged read, %d ran", parsed, n, reads, ran)
	if ran < 300 {
		t.Errorf("only %d ran", ran)
	}
}
