package statement_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest/corpus"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// testRandom holds random queries to the server as the cases are.
func testRandom(t *testing.T, s *server, cat *statement.Catalog, st *statement.State) {
	one, two := s.connect(t, "one", "agent"), s.connect(t, "two", "agent")
	for seed := range 400 {
		sql := corpus.New(uint64(seed)).Query()
		c := testCase{name: fmt.Sprint(seed), sql: sql}
		t.Run(c.name, func(t *testing.T) {
			a, after := analyzed(t, c, cat, st)
			if a.Access != statement.Read {
				t.Fatalf("%s\nis %s: %v", sql, a.Access, shown(a))
			}
			x, y := runRead(t, one, c), runRead(t, two, c)
			if t.Failed() {
				return
			}
			testColumns(t, one, c, a)
			testInterference(t, a, x, y)
			testReads(t, one, c, a, after)
			mustRun(t, one, "DROP VIEW IF EXISTS pg_temp.probe")
			if t.Failed() {
				t.Logf("%s\n%s", sql, strings.Join(shown(a), "\n"))
			}
		})
	}
}
