package mask

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
	"github.com/countersign/countersign/extproc/redact"
)

var (
	name = statement.ColumnRef{Schema: "public", Table: "people", Column: "name"}
	born = statement.ColumnRef{Schema: "public", Table: "people", Column: "born"}
)

var people = &statement.Catalog{
	Relations: map[statement.Name]*statement.Relation{{Schema: "public", Name: "people"}: {Columns: []statement.Attribute{{Name: "name", Type: 25}, {Name: "born", Type: 1082}}}},
	Types:     map[uint32]*statement.Type{1009: {OID: 1009, Category: 'A', Kind: 'b', Element: 25}},
}

var plans = redact.NewPlans(make([]byte, 32))

func redacted(c string, use bool) gate.Redaction {
	return gate.Redaction{Column: c, With: gate.Mask, Use: use}
}

func TestWhatIsRefused(t *testing.T) {
	plain := statement.Analysis{Output: []statement.Column{{Name: "name", Lineage: []statement.ColumnRef{name}, Plain: true}}}
	used := statement.Analysis{Uses: []statement.Use{{ColumnRef: name, How: statement.Predicate}}}
	for _, c := range []struct {
		name string
		of   []gate.Redaction
		a    statement.Analysis
		want string // of the refusal; "" for none, "masked" for a plan
	}{
		{"nothing is redacted", nil, used, ""},
		{"another column", []gate.Redaction{redacted("public.people.born", false)}, plain, ""},
		{"another table", []gate.Redaction{redacted("public.others.*", false)}, plain, ""},
		{"the column", []gate.Redaction{redacted("public.people.name", false)}, plain, "masked"},
		{"any column", []gate.Redaction{redacted("public.people.*", false)}, plain, "masked"},
		{"any table", []gate.Redaction{redacted("public.*.name", false)}, plain, "masked"},
		{"a use", []gate.Redaction{redacted("public.people.name", false)}, used, "public.people.name is masked"},
		{"a use that is let", []gate.Redaction{redacted("public.people.name", true)}, used, ""},
		{"a use that only one lets", []gate.Redaction{redacted("public.people.name", true), redacted("public.people.*", false)}, used, "public.people.name is masked"},
		{"by a path", []gate.Redaction{{Path: "$.name"}}, plain, "redacts by path"},
		{"what exposes others", []gate.Redaction{redacted("public.people.born", false)}, statement.Analysis{Exposes: []string{"pg_catalog.pg_stats"}}, "pg_catalog.pg_stats"},
		{"EXPLAIN", []gate.Redaction{redacted("public.people.born", false)}, statement.Analysis{Explain: true, Reads: []statement.Table{{Schema: "public", Table: "people"}}}, "estimates"},
		{"COPY", []gate.Redaction{redacted("public.people.name", false)}, statement.Analysis{Output: plain.Output, Copy: &statement.Copy{Format: "text"}}, "masked"},
		{"COPY in binary", []gate.Redaction{redacted("public.people.name", false)}, statement.Analysis{Output: plain.Output, Copy: &statement.Copy{Format: "binary"}}, "masked"},
		{"COPY in a format of tomorrow", []gate.Redaction{redacted("public.people.name", false)}, statement.Analysis{Output: plain.Output, Copy: &statement.Copy{Format: "json"}}, "json\" is not known"},
		{"COPY with an option of tomorrow", []gate.Redaction{redacted("public.people.name", false)}, statement.Analysis{Output: plain.Output, Copy: &statement.Copy{Format: "csv", Options: map[string]string{"shape": "x"}}}, "shape\" is not known"},
		{"COPY in another encoding", []gate.Redaction{redacted("public.people.name", false)}, statement.Analysis{Output: plain.Output, Copy: &statement.Copy{Format: "csv", Options: map[string]string{"encoding": "SJIS"}}}, "UTF8 only"},
		{"COPY with a long delimiter", []gate.Redaction{redacted("public.people.name", false)}, statement.Analysis{Output: plain.Output, Copy: &statement.Copy{Format: "csv", Options: map[string]string{"delimiter": "ab"}}}, "has not one character"},
		{"a detector", []gate.Redaction{{Detect: "email"}}, statement.Analysis{Uses: used.Uses, Exposes: []string{"pg_catalog.pg_stats"}, Explain: true}, "masked"},
		{"COPY to a file", []gate.Redaction{redacted("public.people.name", false)}, statement.Analysis{Output: plain.Output, Copy: &statement.Copy{Format: "text", File: true}}, "own machine"},
	} {
		p, err := New(plans, c.of, &c.a, people)
		var unfit *gate.Unfit
		switch {
		case c.want == "" || c.want == "masked":
			if err != nil || (p != nil) != (c.want == "masked") {
				t.Errorf("%s: %v, %v", c.name, p, err)
			}
		case !errors.As(err, &unfit) || !strings.Contains(unfit.Detail, c.want) || p != nil:
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func plan(t testing.TB, copies bool) *Plan {
	t.Helper()
	a := statement.Analysis{Output: []statement.Column{
		{Name: "id"}, {Name: "name", Lineage: []statement.ColumnRef{name}, Plain: true}, {Name: "born", Lineage: []statement.ColumnRef{born}, Plain: true},
	}}
	if copies {
		a.Copy = &statement.Copy{Format: "text"}
	}
	p, err := New(plans, []gate.Redaction{redacted("public.people.name", false), redacted("public.people.born", false)}, &a, people)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// description is a RowDescription of these types.
func description(types ...uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(types)))
	for _, oid := range types {
		b = append(b, "x\x00\x00\x00\x00\x00\x00\x00"...)
		b = append(binary.BigEndian.AppendUint32(b, oid), 0, 4, 0, 0, 0, 0, 0, 0)
	}
	return b
}

// row is a DataRow of these values; "NULL" is none.
func row(values ...string) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
	for _, v := range values {
		if v == "NULL" {
			b = append(b, 0xFF, 0xFF, 0xFF, 0xFF)
			continue
		}
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
	}
	return b
}

func TestRows(t *testing.T) {
	p := plan(t, false)
	if _, err := p.Row(nil, row("1", "Ada", "1815-12-10")); err == nil {
		t.Error("a row was masked before it was described")
	}
	for _, types := range [][]uint32{{23, 25}, {23, 25, 1082, 23}, {}} {
		if p.Describe(description(types...)) == nil {
			t.Errorf("a description of %d columns was taken", len(types))
		}
	}
	if err := p.Describe(description(23, 25, 1082)); err != nil {
		t.Fatal(err)
	}
	for _, values := range [][]string{{"1", "Ada", "1815-12-10"}, {"1", "NULL", "NULL"}, {"1", "", "x"}} {
		got, err := p.Row(nil, row(values...))
		if err != nil || string(got) != string(row("1", Mask, "NULL")) {
			t.Errorf("%q is %q, %v", values, got, err)
		}
	}
	whole := row("1", "Ada", "1815-12-10")
	for n := range whole {
		if _, err := p.Row(nil, whole[:n]); err == nil {
			t.Errorf("a row of %d bytes is taken", n)
		}
	}
	if _, err := p.Row(nil, append(whole, 0)); err == nil {
		t.Error("a row with a byte more is taken")
	}
	if p.Masked()["public.people.name"] < 3 {
		t.Errorf("%v", p.Masked())
	}
}

func TestCopyData(t *testing.T) {
	p := plan(t, true)
	if _, err := p.CopyData(nil, []byte("1\tAda\t1815-12-10\n")); err == nil {
		t.Error("data was masked before it was described")
	}
	if p.DescribeCopy([]byte{1, 0, 3, 0, 1, 0, 1, 0, 1}) == nil || p.DescribeCopy([]byte{0, 0, 2, 0, 0, 0, 0}) == nil {
		t.Error("binary, or two columns, were taken")
	}
	if err := p.DescribeCopy([]byte{0, 0, 3, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"1\tAda\t1815-12-10\n":    "1\t[redacted]\t\\N\n",
		"1\t\\N\t\\N\n":           "1\t[redacted]\t\\N\n",
		"1\ta\\tb\\nc\t\n":        "1\t[redacted]\t\\N\n",
		"1\tAda\n":                "",
		"1\tAda\tx\ty\n":          "",
		"1\tAda\tx":               "",
		"1\tAda\tx\n2\tBob\ty\nz": "",
		"1\tAda\tx\\\n":           "",
	} {
		got, err := p.CopyData(nil, []byte(line))
		if (err == nil) != (want != "") || err == nil && string(got) != want {
			t.Errorf("%q is %q, %v", line, got, err)
		}
	}
}

// FuzzNonInterference: two rows that differ in masked values only are masked to the same bytes, whatever they are.
func FuzzNonInterference(f *testing.F) {
	f.Add("1", "Ada", "1815-12-10", "Bob", "NULL")
	f.Fuzz(func(t *testing.T, id, name1, born1, name2, born2 string) {
		p := plan(t, false)
		if err := p.Describe(description(23, 25, 1082)); err != nil {
			t.Fatal(err)
		}
		a, errA := p.Row(nil, row(id, name1, born1))
		b, errB := p.Row(nil, row(id, name2, born2))
		if errA != nil || errB != nil || string(a) != string(b) {
			t.Errorf("%q (%v) and %q (%v)", a, errA, b, errB)
		}
	})
}

// An error of a statement that has nothing to do with what is masked is left as it is.
func TestGuards(t *testing.T) {
	reads := func(table string) statement.Analysis {
		return statement.Analysis{Access: statement.Read, Kind: "select", Reads: []statement.Table{{Schema: "public", Table: table}}}
	}
	list := []gate.Redaction{redacted("public.people.born", false)}
	for _, c := range []struct {
		name       string
		redactions []gate.Redaction
		analysis   statement.Analysis
		want       bool
	}{
		{"nothing is masked", nil, reads("people"), false},
		{"the table has a masked column", list, reads("people"), true},
		{"a read of another table", list, reads("orders"), false},
		{"any table may have one", []gate.Redaction{redacted("public.*.born", false)}, reads("orders"), true},
		{"a detector looks at the error itself", []gate.Redaction{{Detect: "email"}}, reads("people"), false},
		{"code of somebody's own may read it", list, statement.Analysis{Access: statement.Read, Kind: "select", Functions: []statement.Function{{Schema: "public", Name: "f"}}}, true},
		{"what commits may fail by what was written before", list, statement.Analysis{Access: statement.Transaction, Kind: "commit"}, true},
		{"what is fetched may be of any table", list, statement.Analysis{Access: statement.Read, Kind: "cursor"}, true},
		{"a write", list, statement.Analysis{Access: statement.Write, Kind: "insert"}, true},
	} {
		if got := Guards(c.redactions, &c.analysis); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
