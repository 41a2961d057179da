package session

import (
	"encoding/hex"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// Schema describes input.postgres.
type Schema struct {
	Database    string           `json:"database" doc:"the database of the session"`
	Role        string           `json:"role" doc:"the role that the statement runs as"`
	SearchPath  []string         `json:"search_path" doc:"the schemas in which names are looked up, as they are set"`
	Settings    []string         `json:"settings" doc:"other parameters of the session that change what a text means, and the session's own, as name=value: DateStyle=SQL, DMY; those are left out that have PostgreSQL's default"`
	Transaction string           `json:"transaction" doc:"the transaction before the statement" words:"idle open failed"`
	Earlier     string           `json:"earlier" doc:"digest of what the transaction has done before, and the text or pipeline; empty where that is nothing"`
	Index       int              `json:"index" doc:"which statement of its text this is, from 0"`
	Of          int              `json:"of" doc:"how many statements its text has"`
	Phase       string           `json:"phase" doc:"parse: it is prepared, and has no values yet; execute: it is to run" words:"parse execute"`
	Access      string           `json:"access" doc:"the strongest thing that the statement does anywhere in it" words:"read write schema session transaction unknown"`
	Kind        string           `json:"kind" doc:"what kind of statement it is; of EXPLAIN that of what is explained" words:"select insert update delete merge copy truncate ddl set show listen notify discard transaction prepare execute deallocate cursor call do lock vacuum cluster reindex refresh checkpoint empty"`
	Command     string           `json:"command" doc:"the command tag of the outermost statement, without counts"`
	Copy        string           `json:"copy" doc:"with what COPY trades rows: the client (stdin, stdout), or a file or program of the server's machine; empty for other statements" words:"stdin stdout file program"`
	Reads       []tableSchema    `json:"reads" doc:"the relations that are read, resolved through search_path, views, inheritance and partitions"`
	Writes      []tableSchema    `json:"writes" doc:"the relations that are written"`
	Functions   []functionSchema `json:"functions" doc:"the functions that are called"`
	Sets        []string         `json:"sets" doc:"the parameters of the session that it sets, by SET or set_config, in small letters; what RESET gets back is not among them"`
	HasWhere    bool             `json:"has_where" doc:"what is read, changed or deleted is chosen by a WHERE that names a column"`
	HasLimit    bool             `json:"has_limit" doc:"the outermost has LIMIT or FETCH FIRST"`
	Locks       bool             `json:"locks" doc:"rows or relations are locked"`
	Opaque      bool             `json:"opaque" doc:"what it does cannot be known: DO, a function with a body, dynamic SQL"`
	Explain     bool             `json:"explain" doc:"it is EXPLAIN"`
	Executes    string           `json:"executes" doc:"of EXECUTE, the text that prepared what it runs; empty for others"`
	Text        string           `json:"text" doc:"the statement as it was sent"`
	Fingerprint string           `json:"fingerprint" doc:"the same for statements that differ in literals only"`
	Parameters  []valueSchema    `json:"parameters" doc:"the values of $1, $2 and so on; none while it is prepared"`
}

type tableSchema struct {
	Schema  string   `json:"schema" doc:"its schema"`
	Table   string   `json:"table" doc:"its name"`
	Columns []string `json:"columns" doc:"the columns that are read or written"`
}

type functionSchema struct {
	Schema     string `json:"schema" doc:"its schema"`
	Name       string `json:"name" doc:"its name"`
	Volatility string `json:"volatility" doc:"as it claims" words:"immutable stable volatile"`
}

type valueSchema struct {
	Type   string  `json:"type" doc:"its type; empty where it is not known"`
	Value  *string `json:"value,omitempty" doc:"in PostgreSQL's own text form; null for NULL; absent where it could not be read"`
	Base64 string  `json:"base64,omitempty" doc:"its bytes, where the value could not be read"`
}

// detail is input.postgres.
type detail struct{ object, recorded gate.Object }

// Key is "postgres".
func (d *detail) Key() string { return Protocol }

// Object is the statement as policy sees it.
func (d *detail) Object() gate.Object { return d.object }

// Volatile is nothing: what the server gets is bound.
func (d *detail) Volatile() gate.Object { return nil }

// Recorded is what the record of a decision has.
func (d *detail) Recorded() gate.Object { return d.recorded }

// detail describes a statement.
func (s *session) detail(j *judged) *detail {
	in := Input{Statement: j.statement, Analysis: &j.analysis, State: j.state, Database: s.database, Phase: j.phase}
	in.Earlier = hex.EncodeToString(j.earlier)
	for _, p := range j.parameters {
		in.Parameters = append(in.Parameters, p.object())
	}
	recorded := gate.Object{
		{Name: "access", Value: string(j.analysis.Access)},
		{Name: "collection", Value: collection(&j.analysis)},
		{Name: "database", Value: gate.Recorded(s.database, gate.MaxClaimed)},
		{Name: "fingerprint", Value: in.fingerprint()},
		{Name: "kind", Value: j.analysis.Kind},
		{Name: "phase", Value: j.phase},
		{Name: "reads", Value: tables(j.analysis.Reads, mostRecorded)},
		{Name: "role", Value: gate.Recorded(j.state.Role, gate.MaxClaimed)},
		{Name: "server", Value: s.target.Address},
		{Name: "session", Value: s.id},
		{Name: "summary", Value: summary(&j.analysis)},
		{Name: "writes", Value: tables(j.analysis.Writes, mostRecorded)},
	}
	return &detail{in.Object(), recorded}
}

// Input is a statement on its way to policy.
type Input struct {
	Statement  statement.Statement
	Analysis   *statement.Analysis
	State      *statement.State // before it
	Database   string
	Phase      string
	Earlier    string // digest of what the transaction has done before
	Parameters []any  // as valueSchema has them
}

// Object is input.postgres.
func (in Input) Object() gate.Object {
	a := in.Analysis
	functions := make([]any, len(a.Functions))
	for i, f := range a.Functions {
		functions[i] = gate.Object{{Name: "name", Value: f.Name}, {Name: "schema", Value: f.Schema}, {Name: "volatility", Value: f.Volatility}}
	}
	parameters, path := in.Parameters, in.State.SearchPath
	if parameters == nil {
		parameters = []any{}
	}
	if path == nil {
		path = []string{}
	}
	settled := in.State.Settings
	if settled == nil {
		settled = []string{}
	}
	return gate.Object{ // in canonical order
		{Name: "access", Value: string(a.Access)},
		{Name: "command", Value: a.Command},
		{Name: "copy", Value: copies(a.Copy)},
		{Name: "database", Value: in.Database},
		{Name: "earlier", Value: in.Earlier},
		{Name: "executes", Value: a.Executes},
		{Name: "explain", Value: a.Explain},
		{Name: "fingerprint", Value: in.fingerprint()},
		{Name: "functions", Value: functions},
		{Name: "has_limit", Value: a.HasLimit},
		{Name: "has_where", Value: a.HasWhere},
		{Name: "index", Value: in.Statement.Index},
		{Name: "kind", Value: a.Kind},
		{Name: "locks", Value: a.Locks},
		{Name: "of", Value: in.Statement.Of},
		{Name: "opaque", Value: a.Opaque},
		{Name: "parameters", Value: parameters},
		{Name: "phase", Value: in.Phase},
		{Name: "reads", Value: tables(a.Reads, -1)},
		{Name: "role", Value: in.State.Role},
		{Name: "search_path", Value: path},
		{Name: "sets", Value: sets(a.Changes)},
		{Name: "settings", Value: settled},
		{Name: "text", Value: in.Statement.Text},
		{Name: "transaction", Value: in.State.Transaction},
		{Name: "writes", Value: tables(a.Writes, -1)},
	}
}

func (in Input) fingerprint() string {
	fingerprint, err := in.Statement.Fingerprint()
	if err != nil {
		return ""
	}
	return fingerprint
}

// sets are the parameters of the session that a statement sets.
func sets(changes []statement.Change) []string {
	names := []string{}
	for _, c := range changes {
		if c.What == statement.Set {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// copies is with what COPY trades rows.
func copies(c *statement.Copy) string {
	switch {
	case c == nil:
		return ""
	case c.Program:
		return "program"
	case c.File:
		return "file"
	case c.In:
		return "stdin"
	default:
		return "stdout"
	}
}

// collection is the one relation that a statement is about; empty where there is none, or another too.
func collection(a *statement.Analysis) string {
	name := ""
	for _, t := range slices.Concat(a.Writes, a.Reads) {
		switch full := t.Schema + "." + t.Table; name {
		case "", full:
			name = full
		default:
			return ""
		}
	}
	return gate.Recorded(name, gate.MaxClaimed)
}

// mostSummed is how many relations a summary names.
const mostSummed = 5

// summary is what a statement does and to what, in few words of which there are few: db.query.summary.
func summary(a *statement.Analysis) string {
	words := []string{a.Command}
	for _, t := range slices.Concat(a.Writes, a.Reads) {
		if name := t.Schema + "." + t.Table; !slices.Contains(words, name) && len(words) <= mostSummed {
			words = append(words, name)
		}
	}
	return gate.Recorded(strings.TrimSpace(strings.Join(words, " ")), gate.MaxClaimed)
}

// mostRecorded is how many relations, and columns of one, a record has.
const mostRecorded = 50

func tables(list []statement.Table, most int) []any {
	if most >= 0 {
		list = list[:min(most, len(list))]
	}
	out := make([]any, len(list))
	for i, t := range list {
		columns := t.Columns
		if most >= 0 {
			columns = columns[:min(most, len(columns))]
		}
		if columns == nil {
			columns = []string{}
		}
		out[i] = gate.Object{{Name: "columns", Value: columns}, {Name: "schema", Value: t.Schema}, {Name: "table", Value: t.Table}}
	}
	return out
}
