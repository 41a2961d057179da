package session

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// estimate is how many rows an UPDATE or a DELETE would touch, in words for who is asked to approve it, by the server's own EXPLAIN, which
// does not run it. It is for people only: the agent is not told. There is none where planning the statement could call code of somebody's own
// or ask another server, or where the agent's transaction would have to bear it.
func (s *session) estimate(j *judged) []string {
	if !s.explainable(j) {
		return nil
	}
	for _, sql := range []string{"BEGIN READ ONLY", "SET LOCAL lock_timeout = '200ms'", "SET LOCAL statement_timeout = '1s'"} {
		if _, err := s.asked(sql, false); err != nil {
			return s.unestimated(err)
		}
	}
	rows, err := s.askedWith("EXPLAIN (FORMAT JSON) "+j.statement.Text, j.statement.Parameters, j.parameters, false)
	if err != nil || len(rows) != 1 || len(rows[0]) != 1 {
		return s.unestimated(err)
	}
	_ = s.unestimated(nil)
	if n, ok := touched(rows[0][0]); ok {
		return []string{fmt.Sprintf("The database estimates that it touches %.0f rows. That is a guess from its statistics; nothing was run.", n)}
	}
	return nil
}

// unestimated ends the gateway's own transaction. Where that fails the session is over, and the next message finds it so.
func (s *session) unestimated(why error) []string {
	if _, err := s.asked("ROLLBACK", false); err != nil {
		s.server.lane.Log.Warn("an estimate was not ended", "session", s.id, "error", err, "after", why)
	}
	return nil
}

func (s *session) explainable(j *judged) bool {
	a := &j.analysis
	switch {
	case a.Kind != "update" && a.Kind != "delete", a.Access != statement.Write, a.Opaque, a.Explain, j.statement.Of != 1,
		j.phase != phaseExecute, j.state.Transaction != statement.Idle, s.piped:
		return false
	}
	elsewhere := func(t statement.Table) bool {
		rel := j.catalog.Relations[statement.Name{Schema: t.Schema, Name: t.Table}]
		return rel == nil || rel.Kind == 'f'
	}
	return !slices.ContainsFunc(a.Functions, func(f statement.Function) bool { return f.Schema != "pg_catalog" }) &&
		!slices.ContainsFunc(a.Reads, elsewhere) && !slices.ContainsFunc(a.Writes, elsewhere)
}

// touched is how many rows come out of a plan's inner nodes, and so to the one that changes them.
func touched(plan string) (rows float64, ok bool) {
	var told []struct {
		Plan struct {
			Plans []struct {
				Relationship string  `json:"Parent Relationship"`
				Rows         float64 `json:"Plan Rows"`
			} `json:"Plans"`
		} `json:"Plan"`
	}
	if json.Unmarshal([]byte(plan), &told) != nil || len(told) != 1 {
		return 0, false
	}
	for _, p := range told[0].Plan.Plans {
		if p.Relationship == "Outer" || p.Relationship == "Member" {
			rows, ok = rows+p.Rows, true
		}
	}
	return rows, ok
}
