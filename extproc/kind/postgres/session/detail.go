package session

import (
	"encoding/hex"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// Schema describes input.postgres.
type Schema struct {
	Database    string           `json:"database" doc:"the database of the session"`
	Role        string           `json:"role" doc:"the role that the statement runs as"`
	SearchPath  []string         `json:"search_path" doc:"the schemas in which names are looked up, as they are set"`
	Transaction string           `json:"transaction" doc:"the transaction before the statement" words:"idle,open,failed"`
	Earlier     string           `json:"earlier" doc:"digest of what the transaction has done before; empty where it has done nothing"`
	Index       int              `json:"index" doc:"which statement of its text this is, from 0"`
	Of          int              `json:"of" doc:"how many statements its text has"`
	Phase       string           `json:"phase" doc:"parse: it is prepared, and has no values yet; execute: it is to run" words:"parse,execute"`
	Access      string           `json:"access" doc:"the strongest thing that the statement does anywhere in it" words:"read,write,schema,session,transaction,unknown"`
	Kind        string           `json:"kind" doc:"what kind of statement it is; of EXPLAIN that of what is explained" words:"select,insert,update,delete,merge,copy,ddl,set,show,call,do,cursor"`
	Command     string           `json:"command" doc:"the command tag of the outermost statement, without counts"`
	Reads       []tableSchema    `json:"reads" doc:"the relations that are read, resolved through search_path, views, inheritance and partitions"`
	Writes      []tableSchema    `json:"writes" doc:"the relations that are written"`
	Functions   []functionSchema `json:"functions" doc:"the functions that are called"`
	HasWhere    bool             `json:"has_where" doc:"what is read, changed or deleted is chosen by a WHERE that names a column"`
	HasLimit    bool             `json:"has_limit" doc:"the outermost has LIMIT or FETCH FIRST"`
	Locks       bool             `json:"locks" doc:"rows or relations are locked"`
	Opaque      bool             `json:"opaque" doc:"what it does cannot be known: DO, a function with a body, dynamic SQL"`
	Explain     bool             `json:"explain" doc:"it is EXPLAIN"`
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
	Volatility string `json:"volatility" doc:"as it claims" words:"immutable,stable,volatile"`
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
	a := &j.analysis
	fingerprint, err := j.statement.Fingerprint()
	if err != nil {
		fingerprint = ""
	}
	parameters := make([]any, len(j.parameters))
	for i, p := range j.parameters {
		parameters[i] = p.object()
	}
	functions := make([]any, len(a.Functions))
	for i, f := range a.Functions {
		functions[i] = gate.Object{{Name: "name", Value: f.Name}, {Name: "schema", Value: f.Schema}, {Name: "volatility", Value: f.Volatility}}
	}
	earlier := ""
	if j.state.Transaction == statement.Open {
		earlier = hex.EncodeToString(s.earlier)
	}
	path := j.state.SearchPath
	if path == nil {
		path = []string{}
	}
	object := gate.Object{ // in canonical order
		{Name: "access", Value: string(a.Access)},
		{Name: "command", Value: a.Command},
		{Name: "database", Value: s.database},
		{Name: "earlier", Value: earlier},
		{Name: "explain", Value: a.Explain},
		{Name: "fingerprint", Value: fingerprint},
		{Name: "functions", Value: functions},
		{Name: "has_limit", Value: a.HasLimit},
		{Name: "has_where", Value: a.HasWhere},
		{Name: "index", Value: j.statement.Index},
		{Name: "kind", Value: a.Kind},
		{Name: "locks", Value: a.Locks},
		{Name: "of", Value: j.statement.Of},
		{Name: "opaque", Value: a.Opaque},
		{Name: "parameters", Value: parameters},
		{Name: "phase", Value: j.phase},
		{Name: "reads", Value: tables(a.Reads, -1)},
		{Name: "role", Value: j.state.Role},
		{Name: "search_path", Value: path},
		{Name: "text", Value: j.statement.Text},
		{Name: "transaction", Value: j.state.Transaction},
		{Name: "writes", Value: tables(a.Writes, -1)},
	}
	recorded := gate.Object{
		{Name: "access", Value: string(a.Access)},
		{Name: "fingerprint", Value: fingerprint},
		{Name: "kind", Value: a.Kind},
		{Name: "phase", Value: j.phase},
		{Name: "reads", Value: tables(a.Reads, mostRecorded)},
		{Name: "session", Value: s.id},
		{Name: "writes", Value: tables(a.Writes, mostRecorded)},
	}
	return &detail{object, recorded}
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
