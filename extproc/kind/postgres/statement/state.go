package statement

// Transaction statuses, as policy sees them.
const (
	Idle   = "idle"
	Open   = "open"
	Failed = "failed"
)

// State is what of a session changes what a statement means. [State.Done] keeps it right where the server carries out what
// [Analysis.Changes] says; the zero value is no session's, see [NewState].
type State struct {
	Database    string
	User        string // that it logged in as
	SessionRole string // SESSION AUTHORIZATION
	Role        string // current_user

	SearchPath                []string // as set: names, among them "$user" and "pg_temp"
	StandardConformingStrings bool
	Transaction               string

	Prepared map[string]Statement // by name, by PREPARE as well as by Parse; the unnamed is ""
	Cursors  map[string]*Cursor   // by name, by DECLARE as well as by Bind
	Temp     map[string]*Relation // the session's temporary relations, which come before all others

	// Harmless are functions that the resource's configuration says are harmless: "schema.name".
	Harmless map[string]bool

	// Stale is why the state is not known: something opaque ran. Until [State.Refresh], everything is Unknown.
	Stale string

	defaults defaults
	marks    []mark // what ROLLBACK gets back, the transaction's first
}

// Cursor is a query that rows can be fetched of.
type Cursor struct {
	Analysis Analysis // of the query
	Hold     bool     // it outlives the transaction
}

type defaults struct {
	searchPath                []string
	role                      string
	standardConformingStrings bool
}

type mark struct{}

// Change is something that a statement does to a [State].
type Change struct {
	Name string
}
