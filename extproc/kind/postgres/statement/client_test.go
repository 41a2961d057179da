package statement_test

import (
	"encoding/csv"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/kind/postgres/catalog"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// TestClients runs PostgreSQL's own clients at a server that logs what they send, and holds that all of it is understood, and that
// what psql and pg_dump ask of the catalog is judged a read.
func TestClients(t *testing.T) {
	system, err := extproctest.FindPostgres()
	if err != nil {
		t.Fatal(err)
	}
	for name, bin := range map[string]string{"of the system": system, "18": extproctest.Postgres18(t)} {
		t.Run(name, func(t *testing.T) { testClients(t, bin) })
	}
}

func testClients(t *testing.T, bin string) {
	schema, err := os.ReadFile("testdata/schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("$1,", "NULL,", "$2,", "NULL,", "$3,", "NULL,", "$4,", "1,", "$5,", "2,", "$6,", "3,").Replace(string(schema))
	text = strings.ReplaceAll(text, "VALUES (NULL, ", "VALUES ($1, ") // of functions
	p := extproctest.StartPostgres(t, extproctest.PostgresConfig{
		Bin:   bin,
		HBA:   []string{"local all all trust"},
		Lines: []string{"logging_collector = on", "log_destination = csvlog", "log_filename = 'all.log'", "log_statement = all"},
		SQL:   text,
	})
	run := func(stdin, name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = append(cmd.Environ(), "PGHOST="+p.Dir, "PGPORT="+p.Address[strings.LastIndex(p.Address, ":")+1:], "PGUSER=postgres", "PGDATABASE=postgres", "PGAPPNAME=client "+name)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run(psqlCommands, "psql", "--no-psqlrc")
	run("", "pg_dump", "--file=/dev/null")
	run("", "pg_dump", "--file=/dev/null", "--inserts", "--column-inserts")
	run("", "pgbench", "-i", "-q", "-s", "1")
	for _, mode := range []string{"simple", "extended", "prepared"} {
		run("", "pgbench", "-n", "-t", "5", "-M", mode)
	}
	conn, err := connectTo(t, p)
	if err != nil {
		t.Fatal(err)
	}
	cat, first := read(t, conn)
	states := map[string]*statement.State{}
	counts := map[string]int{}
	for _, r := range logged(t, filepath.Join(p.Dir, "data", "log", "all.csv")) {
		name, ok := strings.CutPrefix(r.application, "client ")
		if !ok {
			continue
		}
		st := states[r.session]
		if st == nil {
			st = first.Clone()
			states[r.session] = st
		}
		list, err := statement.Parse(r.text, true)
		if err != nil {
			t.Errorf("%s sent %s: %v", name, r.text, err)
			continue
		}
		for _, s := range list {
			a, err := s.Analyze(cat, st)
			if err != nil || a.Doubt != nil {
				t.Errorf("%s sent\n%s\n%v %v", name, s.Text, err, a.Doubt)
				continue
			}
			if a.Kind == "select" && name != "pgbench" && a.Access != statement.Read && a.Access != statement.Session {
				t.Errorf("%s sent\n%s\nwhich is %s: %v", name, s.Text, a.Access, shown(a))
			}
			st.Apply(a.Changes)
			maps.Copy(st.Cursors, st.Unsure) // as the server would say: no client replaces one
			st.Unsure = nil
			if st.Stale != "" {
				if err := catalog.Refresh(t.Context(), query(conn), st, false); err != nil {
					t.Fatal(err)
				}
			}
			counts[name]++
		}
	}
	for _, name := range []string{"psql", "pg_dump", "pgbench"} {
		if counts[name] < 20 {
			t.Errorf("%s sent %d statements", name, counts[name])
		}
	}
}

const psqlCommands = `\d
\d+
\d customers
\d+ customers
\d+ customer_mail
\d+ events
\d numbers
\d evil.*
\da
\db
\dc
\dC
\dd
\dD
\ddp
\dE
\des
\deu
\dew
\df
\df+ write_log
\dF
\dFd
\dFp
\dFt
\dg
\di
\dl
\dL
\dm
\dn+
\do
\dO
\dp
\drds
\dRp
\dRs
\ds
\dt+
\dT+
\du
\dv+
\dx
\dX
\dy
\l+
\sf write_log
\sv customer_mail
\z
SELECT 1 \gdesc
`

type logLine struct{ session, application, text string }

// logged is what was sent, as the server's log has it.
func logged(t *testing.T, path string) []logLine {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil && len(rows) == 0 {
		t.Fatal(err)
	}
	prefix := regexp.MustCompile(`^(statement|execute [^:]*): `)
	var list []logLine
	for _, row := range rows {
		if m := prefix.FindString(row[13]); m != "" {
			list = append(list, logLine{row[5], row[22], row[13][len(m):]})
		}
	}
	return list
}
