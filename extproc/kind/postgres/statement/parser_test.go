package statement

import (
	"strings"
	"testing"

	wasm "github.com/wasilibs/go-pgquery"
)

// deep are ways to make a tree deep, n times.
var deep = map[string]func(n int) string{
	"sums":       func(n int) string { return "SELECT 1" + strings.Repeat(" + 1", n) },
	"NOTs":       func(n int) string { return "SELECT" + strings.Repeat(" NOT", n) + " true" },
	"signs":      func(n int) string { return "SELECT" + strings.Repeat(" - ", n) + "a" },
	"casts":      func(n int) string { return "SELECT 1" + strings.Repeat("::text", n) },
	"collations": func(n int) string { return "SELECT 'a'" + strings.Repeat(" COLLATE c", n) },
	"subscripts": func(n int) string { return "SELECT a" + strings.Repeat("[1]", n) },
	"tests":      func(n int) string { return "SELECT a" + strings.Repeat(" IS NULL", n) },
	"joins":      func(n int) string { return "SELECT 1 FROM t" + strings.Repeat(" CROSS JOIN t", n) },
	"unions":     func(n int) string { return "SELECT 1" + strings.Repeat(" UNION SELECT 1", n) },
	"cases": func(n int) string {
		return "SELECT " + strings.Repeat("CASE WHEN true THEN ", n) + "1" + strings.Repeat(" END", n)
	},
	"calls":       func(n int) string { return "SELECT " + strings.Repeat("f(", n) + "1" + strings.Repeat(")", n) },
	"sub-selects": func(n int) string { return "SELECT " + strings.Repeat("(SELECT ", n) + "1" + strings.Repeat(")", n) },
	"in FROM": func(n int) string {
		return strings.Repeat("SELECT * FROM (", n) + "SELECT 1" + strings.Repeat(") s", n)
	},
	"ANDs in ORs": func(n int) string {
		return "SELECT 1 WHERE " + strings.Repeat("(true AND (false OR ", n) + "true" + strings.Repeat("))", n)
	},
	"arrays": func(n int) string { return "SELECT " + strings.Repeat("ARRAY[", n) + "1" + strings.Repeat("]", n) },
	"rows":   func(n int) string { return "SELECT " + strings.Repeat("ROW(", n) + "1" + strings.Repeat(")", n) },
	"WITHs": func(n int) string {
		return strings.Repeat("WITH a AS (", n) + "SELECT 1" + strings.Repeat(") SELECT 1", n)
	},
	"EXPLAIN":   func(n int) string { return strings.Repeat("EXPLAIN ", n) + "SELECT 1" },
	"fields":    func(n int) string { return "SELECT (a)" + strings.Repeat(".b", n) },
	"times":     func(n int) string { return "SELECT a" + strings.Repeat(" AT TIME ZONE b", n) },
	"names":     func(n int) string { return "SELECT a" + strings.Repeat(".b", n) },
	"operators": func(n int) string { return "SELECT a" + strings.Repeat(" OPERATOR(c.+) a", n) },
}

// TestNesting holds that whatever could overflow the parser's stack is not given to it: each way of nesting is counted, and what is counted as twice as
// deep as is let through is still no trap.
func TestNesting(t *testing.T) {
	for name, text := range deep {
		t.Run(name, func(t *testing.T) {
			parserMutex.Lock()
			defer parserMutex.Unlock()
			for n := 100; ; n = n * 5 / 4 {
				scan, err := wasm.Scan(text(n))
				if err != nil {
					t.Fatal(err)
				}
				counted := nesting(scan.GetTokens())
				if counted > 2*maxNesting {
					return
				}
				if n > 50_000 {
					t.Logf("%d is counted %d", n, counted)
					return
				}
				if trapped, _ := traps(text(n)); trapped {
					t.Fatalf("%d, counted %d: trapped", n, counted)
				}
			}
		})
	}
}

func traps(text string) (trapped bool, err error) {
	defer func() {
		if recover() != nil {
			instances.Init()
			trapped = true
		}
	}()
	_, err = wasm.Parse(text)
	return false, err
}

// TestTrap holds that after a trap the parser is another.
func TestTrap(t *testing.T) {
	parserMutex.Lock()
	trapped, _ := traps(deep["sums"](300_000))
	parserMutex.Unlock()
	if !trapped {
		t.Fatal("it did not trap")
	}
	if _, err := parsing("", func(string) (int, error) { panic("as if it trapped") }); err == nil || instances.Len() != 0 {
		t.Errorf("%v, and %d are kept", err, instances.Len())
	}
	if list, err := Parse("SELECT 'after'", true); err != nil || len(list) != 1 {
		t.Error(err)
	}
}
