package statement

// Access is how strongly a statement acts. The greater is the stronger, and [Unknown] is the zero value's.
type Access string

// What a statement does, from the weakest to the strongest.
const (
	Read        Access = "read"        // and nothing else
	Session     Access = "session"     // changes the session: SET, LISTEN, DISCARD; also SHOW, and the empty statement
	Transaction Access = "transaction" // BEGIN, COMMIT, SAVEPOINT and the like
	Write       Access = "write"       // changes or locks rows, or has an effect outside of them: NOTIFY, pg_sleep, setval
	Schema      Access = "schema"      // changes definitions, roles, privileges or settings of the server
	Unknown     Access = "unknown"     // cannot be told
)

func (a Access) rank() int {
	switch a {
	case Read:
		return 1
	case Session:
		return 2
	case Transaction:
		return 3
	case Write:
		return 4
	case Schema:
		return 5
	default:
		return 6
	}
}

// Analysis is what a statement does.
type Analysis struct {
	Access  Access
	Kind    string // "select", "insert", "update", "delete", "merge", "copy", "ddl", "set", "show", "call", "do", "cursor", …; of what EXPLAIN explains
	Command string // the command tag of the outermost, without counts: "SELECT", "CREATE TABLE"

	Reads, Writes []Table    // sorted by schema and table
	Functions     []Function // called anywhere, also by operators, casts, views, policies and triggers; sorted

	HasWhere bool // each SELECT, UPDATE or DELETE that has the outermost effect has a WHERE that names a column
	HasLimit bool // LIMIT or FETCH FIRST on the outermost
	Locks    bool // FOR UPDATE and the like, or LOCK
	Opaque   bool // what it does cannot be known: DO, a function with a body, dynamic SQL
	Explain  bool

	// Code says that it defines what runs later where no statement names it: a function's body, a trigger, a rule, a default that calls a
	// function of somebody's own.
	Code bool

	Executes string // the text of the PREPARE or Parse whose statement EXECUTE runs

	// Doubt says why Access is Unknown though nothing is opaque: nothing of this statement may run, whatever policy says. Where it is nil and Access
	// is Unknown, what the statement calls is opaque, and policy may allow it all the same.
	Doubt *Doubt

	Output []Column // of the rows that it answers with; nil where it answers with none
	Uses   []Use    // of columns beyond plain output, sorted

	// Exposes are relations and functions of PostgreSQL's own that it reads and that show values of other relations, or statements of
	// other sessions: pg_catalog.pg_stats, pg_catalog.pg_stat_activity. Sorted.
	Exposes []string

	Copy    *Copy    // of COPY
	Changes []Change // of the session's state, where the server carries the statement out
}

// Doubt is why a statement was not understood. Code is a SQLSTATE: PostgreSQL's own where it would refuse the statement too (42P01, 42703, …), with
// its message, hint and position, and 0A000 where the statement may be right and is beyond this package.
type Doubt struct {
	Code, Message, Hint string
	Position            int // in the text that was parsed, in characters from 1; 0 where it has none
}

// Table is a relation and the columns of it that are read or written, sorted.
type Table struct {
	Schema  string   `json:"schema"`
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

// Function is a function that is called. Where it is not certain which of several has been meant, each is one.
type Function struct {
	Schema     string `json:"schema"`
	Name       string `json:"name"`
	Volatility string `json:"volatility"` // "immutable", "stable" or "volatile", as it claims
}

// ColumnRef is a column of a relation.
type ColumnRef struct{ Schema, Table, Column string }

func (c ColumnRef) String() string { return c.Schema + "." + c.Table + "." + c.Column }

// Column is a column of a statement's answer.
type Column struct {
	Name string
	Type uint32 // its OID; 0 where it is not known here

	// Lineage are the columns whose values it is made of: its own, and those of views, parents, partitions and generated columns behind.
	Lineage []ColumnRef

	// Plain says that it is the value of one column of each row, as it is stored or as a text type in the place of another text
	// type, so that a mask of any column in Lineage may mask it. Otherwise each of Lineage is in Uses too.
	Plain bool
}

// How a column is used beyond plain output.
const (
	Predicate  = "predicate"  // WHERE, HAVING, FILTER, CASE WHEN, ON CONFLICT
	Join       = "join"       // ON, USING, NATURAL
	Order      = "order"      // ORDER BY, of the rows, a window or an aggregate
	Group      = "group"      // GROUP BY, DISTINCT, PARTITION BY, UNION
	Aggregate  = "aggregate"  // an argument of an aggregate or window function
	Called     = "function"   // an argument of another function
	Expression = "expression" // an operand, a cast, an element
	WholeRow   = "row"        // of a row that is used as one value
	Stored     = "stored"     // written to a row or relation, where nothing masks it
	Limit      = "limit"      // LIMIT, OFFSET, TABLESAMPLE
	Redefined  = "definition" // what it is called, where it stands, or what its values have to be, is changed
	Compared   = "constraint" // by a unique or foreign key, or with another by a check, when a row is written: an error tells
)

// Use is a use of a column beyond plain output.
type Use struct {
	ColumnRef
	How string
}

// Copy is where COPY reads or writes.
type Copy struct {
	In      bool              // COPY FROM
	File    bool              // of the server's machine
	Program bool              // run on the server's machine
	Format  string            // "text", "csv" or "binary"
	Null    string            // what stands for NULL; "" where the format's default does
	Options map[string]string // as they are named in parentheses, whichever way they were written; a list of columns with commas, "*" for all
}
