package session

import "testing"

// TestTouched reads plans as the server writes them.
func TestTouched(t *testing.T) {
	for name, c := range map[string]struct {
		plan string
		rows float64
		ok   bool
	}{
		"a scan":      {`[{"Plan": {"Node Type": "ModifyTable", "Plan Rows": 0, "Plans": [{"Node Type": "Seq Scan", "Parent Relationship": "Outer", "Plan Rows": 3}]}}]`, 3, true},
		"a CTE":       {`[{"Plan": {"Node Type": "ModifyTable", "Plan Rows": 0, "Plans": [{"Parent Relationship": "InitPlan", "Plan Rows": 50}, {"Parent Relationship": "Outer", "Plan Rows": 2}]}}]`, 2, true},
		"no plan":     {`[]`, 0, false},
		"not JSON":    {`Update on t`, 0, false},
		"no children": {`[{"Plan": {"Node Type": "Result", "Plan Rows": 1}}]`, 0, false},
	} {
		if rows, ok := touched(c.plan); rows != c.rows || ok != c.ok {
			t.Errorf("%s: %v, %v; want %v, %v", name, rows, ok, c.rows, c.ok)
		}
	}
}
