package statement

import (
	"maps"
	"slices"
	"strconv"
)

// Transaction statuses, as policy sees them.
const (
	Idle   = "idle"
	Open   = "open"
	Failed = "failed"
)

// State is what of a session changes what a statement means. Who serves the session keeps it right: [State.Apply] with each
// statement's Changes when the server has carried the statement out, [State.Fail] when the server has refused one, [State.Ready] with each
// ReadyForQuery. A copy ([State.Clone]) goes ahead where several statements are decided before the first is sent.
type State struct {
	Database    string
	User        string // that it logged in as
	SessionRole string // by SESSION AUTHORIZATION
	Role        string // current_user

	SearchPath                []string // as set: names, among them "$user" and "pg_temp"; see SplitPath
	StandardConformingStrings bool
	Transaction               string

	// Settings are other parameters that change what a text means, as name=value, where they are not PostgreSQL's defaults. The server is asked
	// for them; nothing here follows them.
	Settings []string

	Prepared map[string]Statement // by name, by PREPARE as well as by Parse; the unnamed is ""
	Cursors  map[string]*Cursor   // by name, by DECLARE as well as by Bind
	Temp     map[string]*Relation // the session's temporary relations, which come before all others; by name

	// Unsure are cursors that may be others by now, because something opaque has run: whoever can ask the server has to.
	Unsure map[string]*Cursor

	// TempTypes are the session's temporary types that are not of relations.
	TempTypes map[string]bool

	// Fresh are the relations that were defined since the catalog was read, and nil for those that were dropped: what a text makes in its first statement is
	// there in its second, before anybody can read the catalog anew.
	Fresh map[Name]*Relation

	// Harmless are functions that the resource's configuration says are harmless: "schema.name".
	Harmless map[string]bool

	// Stale is why the state, or the catalog, is not known any more: something opaque ran, or something was defined. Until [State.Refresh] every
	// statement is Unknown but those that end the transaction.
	Stale string

	start settings // of the session, which RESET and DISCARD get back
	kept  settings // what COMMIT keeps: SET LOCAL is not in it
	begun *mark    // where the transaction began, be it an implicit one; nil between transactions
	saved []mark   // savepoints, the last is the innermost
	fails bool     // something failed since begun
	moved bool     // a definition changed since begun
	later bool     // a definition changed in a way that Fresh has: the state is stale when the server is ready
}

// settings are the parameters that are followed.
type settings struct {
	sessionRole, role         string
	path                      []string
	standardConformingStrings bool
}

// A mark is what ROLLBACK gets back.
type mark struct {
	name      string
	now, kept settings
	cursors   map[string]*Cursor
}

// Cursor is a query that rows can be fetched of.
type Cursor struct {
	Analysis Analysis // of the query
	Hold     bool     // it outlives the transaction
	Text     string   // of DECLARE
}

// What a statement does to a session.
const (
	Set           = "set" // Name to Values, where they are known; in Local for the transaction
	Reset         = "reset"
	ResetAll      = "reset all"
	Begin         = "begin" // with options in Values
	Commit        = "commit"
	Rollback      = "rollback"
	Savepoint     = "savepoint"
	Release       = "release"
	RollbackTo    = "rollback to"
	Prepared      = "prepared"
	Deallocated   = "deallocated"
	DeallocateAll = "deallocate all"
	Declared      = "declared"
	Closed        = "closed"
	CloseAll      = "close all"
	DiscardAll    = "discard all"
	Temporary     = "temporary" // a temporary relation came or went
	Defined       = "defined"   // the catalog changed
	Uncertain     = "uncertain" // anything
)

// Change is one thing that a statement does to a session.
type Change struct {
	What   string // one of the above
	Name   string
	Values []string
	Local  bool // SET LOCAL
	Chain  bool // AND CHAIN

	Statement *Statement // of Prepared
	Cursor    *Cursor    // of Declared

	// Relations are all that Defined changes, where that can be told; nil for those that are dropped.
	Relations map[Name]*Relation
}

// NewState is the state of a session that has just begun, as the server says it is.
func NewState(database, user string, searchPath []string, standardConformingStrings bool) *State {
	s := &State{
		Database: database, User: user, SessionRole: user, Role: user, SearchPath: slices.Clone(searchPath), StandardConformingStrings: standardConformingStrings,
		Transaction: Idle, Prepared: map[string]Statement{}, Cursors: map[string]*Cursor{}, Temp: map[string]*Relation{}, Harmless: map[string]bool{},
	}
	s.start, s.kept = s.now(), s.now()
	return s
}

// Clone is a copy that can go its own way.
func (s *State) Clone() *State {
	c := *s
	c.Prepared, c.Cursors, c.Fresh = maps.Clone(s.Prepared), maps.Clone(s.Cursors), maps.Clone(s.Fresh)
	c.Unsure = maps.Clone(s.Unsure)
	c.saved = slices.Clone(s.saved)
	return &c
}

// Refresh says what the server has told: the state is known again.
func (s *State) Refresh(sessionRole, role string, searchPath []string, standardConformingStrings bool, temp map[string]*Relation, types map[string]bool) {
	s.TempTypes, s.Fresh, s.later = types, nil, false
	s.SessionRole, s.Role, s.SearchPath, s.StandardConformingStrings, s.Temp, s.Stale = sessionRole, role, slices.Clone(searchPath), standardConformingStrings, temp, ""
	s.kept = s.now()
}

func (s *State) now() settings {
	return settings{s.SessionRole, s.Role, s.SearchPath, s.StandardConformingStrings}
}

func (s *State) restore(v settings) {
	s.SessionRole, s.Role, s.SearchPath, s.StandardConformingStrings = v.sessionRole, v.role, v.path, v.standardConformingStrings
}

// redefined is why a state is stale after a definition changed in a way that is not followed.
const redefined = "a definition changed"

// Apply does what a statement does to the session.
func (s *State) Apply(changes []Change) {
	if s.begun == nil {
		s.begun = &mark{now: s.now(), kept: s.kept, cursors: maps.Clone(s.Cursors)}
	}
	for _, c := range changes {
		s.apply(c)
	}
}

func (s *State) apply(c Change) { //nolint:funlen // one case for each kind of change
	switch c.What {
	case Set, Reset:
		s.set(c)
	case ResetAll: // neither role nor session_authorization
		s.SearchPath, s.StandardConformingStrings = s.start.path, s.start.standardConformingStrings
		s.kept.path, s.kept.standardConformingStrings = s.SearchPath, s.StandardConformingStrings
	case Begin:
		s.Transaction = Open
	case Commit:
		s.end(s.Transaction != Failed && !s.fails, c.Chain)
	case Rollback:
		s.end(false, c.Chain)
	case Savepoint:
		s.saved = append(s.saved, mark{c.Name, s.now(), s.kept, maps.Clone(s.Cursors)})
	case Release:
		if i := s.savepoint(c.Name); i >= 0 {
			s.saved = s.saved[:i]
		}
	case RollbackTo:
		if i := s.savepoint(c.Name); i >= 0 {
			s.back(s.saved[i])
			s.saved = s.saved[:i+1]
			s.Transaction, s.fails = Open, false
		}
	case Prepared:
		s.Prepared[c.Name] = *c.Statement
	case Deallocated:
		delete(s.Prepared, c.Name)
	case DeallocateAll:
		clear(s.Prepared)
	case Declared:
		s.Cursors[c.Name] = c.Cursor
	case Closed:
		delete(s.Cursors, c.Name)
	case CloseAll:
		clear(s.Cursors)
	case DiscardAll:
		clear(s.Prepared)
		clear(s.Cursors)
		s.restore(s.start)
		s.kept = s.start
		s.Temp, s.TempTypes, s.Stale = map[string]*Relation{}, nil, ""
	case Temporary:
		s.Stale, s.moved = "a temporary relation came or went", true
	case Defined:
		s.moved = true
		if c.Relations == nil {
			s.Stale = redefined
			break
		}
		s.later = true
		if s.Fresh == nil {
			s.Fresh = map[Name]*Relation{}
		}
		maps.Copy(s.Fresh, c.Relations)
	default: // it can have put another statement in the place of one that has a name
		clear(s.Prepared)
		if s.Unsure == nil {
			s.Unsure = map[string]*Cursor{}
		}
		maps.Copy(s.Unsure, s.Cursors)
		clear(s.Cursors)
		s.Stale, s.moved = c.Name, true
		if s.Stale == "" {
			s.Stale = "a statement did what cannot be known"
		}
	}
}

func (s *State) set(c Change) {
	now := s.now()
	s.setIn(&now, c)
	s.restore(now)
	if !c.Local {
		s.setIn(&s.kept, c)
	}
}

func (s *State) setIn(v *settings, c Change) {
	value := ""
	if len(c.Values) > 0 {
		value = c.Values[0]
	}
	switch reset := c.What == Reset; c.Name {
	case "search_path":
		v.path = slices.Clone(c.Values)
		if reset {
			v.path = s.start.path
		}
	case "standard_conforming_strings":
		v.standardConformingStrings = reset && s.start.standardConformingStrings || !reset && on(value)
	case "role":
		v.role = value
		if reset || value == "none" {
			v.role = v.sessionRole
		}
	case "session_authorization":
		v.sessionRole = value
		if reset || value == "default" {
			v.sessionRole = s.User
		}
		v.role = v.sessionRole
	}
}

// on says that a boolean parameter is on. PostgreSQL takes any beginning of a word.
func on(s string) bool {
	switch lower(s) {
	case "on", "t", "tr", "tru", "true", "y", "ye", "yes", "1":
		return true
	}
	return false
}

func (s *State) savepoint(name string) int {
	for i := len(s.saved) - 1; i >= 0; i-- {
		if s.saved[i].name == name {
			return i
		}
	}
	return -1
}

// back gets what there was at a mark.
func (s *State) back(m mark) {
	s.restore(m.now)
	s.kept = m.kept
	for name := range s.Cursors {
		if _, ok := m.cursors[name]; !ok {
			delete(s.Cursors, name)
		}
	}
	if s.moved {
		s.Stale = "a transaction that changed definitions was rolled back"
	}
}

// end ends the transaction.
func (s *State) end(commit, chain bool) {
	if s.begun != nil && !commit {
		s.back(*s.begun)
		s.kept = s.begun.kept
	}
	s.restore(s.kept)
	for name, c := range s.Cursors {
		if !c.Hold {
			delete(s.Cursors, name)
		}
	}
	s.Transaction, s.begun, s.saved, s.fails, s.moved = Idle, nil, nil, false, false
	if chain {
		s.Transaction = Open
		s.begun = &mark{now: s.now(), kept: s.kept, cursors: maps.Clone(s.Cursors)}
	}
}

// Fail says that the server has refused a statement.
func (s *State) Fail() {
	s.fails = true
	if s.Transaction == Open {
		s.Transaction = Failed
	}
}

// Ready says that the server is ready for a query, with the status of ReadyForQuery: 'I', 'T' or 'E'.
func (s *State) Ready(status byte) {
	switch status {
	case 'T':
		s.Transaction = Open
	case 'E':
		s.Transaction, s.fails = Failed, true
	case 'I':
		if s.begun != nil {
			s.end(!s.fails && s.Transaction != Failed, false)
		}
		s.Transaction, s.fails = Idle, false
	default:
		s.Stale = "the server's status is not understood"
	}
	if s.later && s.Stale == "" {
		s.Stale = redefined
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
