package statement

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Catalog is the target's catalog as one role sees it. It does not change after it was made, and is shared by sessions.
type Catalog struct {
	Version  int // server_version_num
	Database string
	Role     string // whose it is: USAGE of schemas

	Schemas   map[string]bool // that exist; true where the role has USAGE
	Relations map[Name]*Relation
	Functions map[Name][]*Routine
	Operators map[Name][]*Operator
	Types     map[uint32]*Type // by OID
	TypeNames map[Name]uint32
	Routines  map[uint32]*Routine // by OID
	Casts     map[[2]uint32]Cast  // from, to

	once  sync.Once
	users map[[2]uint32]Cast
	id    uint64
}

// catalogs counts those that were used.
var catalogs atomic.Uint64

// identity is a number that no other catalog has had.
func (c *Catalog) identity() uint64 {
	c.prepare()
	return c.id
}

// userCasts are the casts that call a function that is not PostgreSQL's own.
func (c *Catalog) userCasts() map[[2]uint32]Cast {
	c.prepare()
	return c.users
}

func (c *Catalog) prepare() {
	c.once.Do(func() {
		c.id = catalogs.Add(1)
		c.users = map[[2]uint32]Cast{}
		for pair, cast := range c.Casts {
			if cast.Function >= firstUser {
				c.users[pair] = cast
			}
		}
	})
}

// Name is a name in a schema.
type Name struct{ Schema, Name string }

func (n Name) String() string { return n.Schema + "." + n.Name }

// Relation is a table, view or the like.
type Relation struct {
	OID  uint32
	Name Name
	Kind byte   // as pg_class.relkind: r, p, v, m, f, S, i, I, c, t
	Type uint32 // of its rows; 0 where it has none

	Columns    []Attribute
	Definition string // of a view or materialized view, by pg_get_viewdef with an empty search_path; not of PostgreSQL's own
	Parents    []Name // that it inherits from, or whose partition it is
	Children   []Name
	Keys       []string // columns of which the rows' partition depends

	Checks   []string // expressions of constraints
	Policies []string // expressions of row security, whoever they are for: a view may read as another role
	Triggers []Trigger
	Rules    bool      // has rules other than a view's own
	Cascades []Cascade // what deleting or changing its rows does to others'

	Unique     []Unique
	References []Reference // its foreign keys
	Referenced []Reference // those of others that refer to it: Columns are its own, Others the other's
}

// Unique is what a unique index, or one of an exclusion constraint, compares rows by.
type Unique struct {
	Columns     []string
	Expressions string // "" where it has none
}

// Reference is a foreign key, from either side.
type Reference struct {
	Columns []string
	Table   Name
	Others  []string

	OnDelete, OnUpdate bool // refuse to delete or change what is referred to
}

// Attribute is a column of a relation.
type Attribute struct {
	Name      string
	Type      uint32
	Generated string // the expression; "" where it is not generated
	Default   string // the expression; "" where it has none
}

// Trigger calls a function when rows are written.
type Trigger struct {
	Name     string
	Function Name
	Events   []string // of "insert", "update", "delete", "truncate"
}

// Cascade is what a foreign key does to the rows that refer to one that is deleted or changed.
type Cascade struct {
	Table    Name // that has the foreign key
	Columns  []string
	OnDelete bool // DELETE does it; otherwise UPDATE does
	Deletes  bool // rows; otherwise Columns are set
}

// Routine is a function, aggregate, window function or procedure.
type Routine struct {
	OID        uint32
	Name       Name
	Kind       byte // as pg_proc.prokind: f, a, w, p
	Volatility byte // i, s, v
	Language   string
	Args       []uint32 // types of the arguments that go in; the last is an array's where Variadic
	ArgNames   []string // of the arguments that go in; shorter where they have no names
	Defaults   int      // how many at the end may be left out
	Variadic   uint32   // the type of an element, where the last takes any number; 0 otherwise
	Result     uint32
	Set        bool        // returns any number of rows
	Outs       []Attribute // OUT and TABLE columns
}

// Operator is an operator.
type Operator struct {
	Name                Name
	Left, Right, Result uint32 // Left is 0 for a prefix operator
	Function            uint32 // OID
}

// Type is a type.
type Type struct {
	OID       uint32
	Name      Name
	Kind      byte // as pg_type.typtype: b, c, d, e, p, r, m
	Category  byte // as pg_type.typcategory
	Preferred bool
	Base      uint32   // of a domain
	Element   uint32   // of a true array
	Subtype   uint32   // of a range or multirange
	Array     uint32   // that has it as element
	Relation  Name     // of a composite type
	Checks    []string // expressions of a domain's constraints
}

// Cast is a cast.
type Cast struct {
	Function uint32 // OID; 0 where none is called
	Context  byte   // i, a, e
	Method   byte   // f, i, b
}

// firstUser is the first OID that is not given at initdb.
const firstUser = 16384

// OIDs that PostgreSQL's source gives.
const (
	typeBool      = 16
	typeBytea     = 17
	typeChar      = 18
	typeName      = 19
	typeInt8      = 20
	typeInt4      = 23
	typeText      = 25
	typeOID       = 26
	typeTid       = 27
	typeXid       = 28
	typeCid       = 29
	typeJSON      = 114
	typeXML       = 142
	typeJSONB     = 3802
	typeUnknown   = 705
	typeBpchar    = 1042
	typeVarchar   = 1043
	typeDate      = 1082
	typeTime      = 1083
	typeTimestamp = 1114
	typeTimestamz = 1184
	typeTimetz    = 1266
	typeBit       = 1560
	typeNumeric   = 1700
	typeRecord    = 2249
	typeAny       = 2276
	typeAnyArray  = 2277
	typeVoid      = 2278
	typeAnyElem   = 2283
	typeAnyNonArr = 2776
	typeRecordArr = 2287
	typeAnyEnum   = 3500
	typeAnyRange  = 3831
	typeCompat    = 5077
	typeCompatArr = 5078
	typeCompatNon = 5079
	typeCompatRng = 5080
	typeMultiRng  = 4537
	typeCompatMR  = 4538
)

// textual are the types that a mask of text fits, and between which a cast without a length changes nothing that is seen.
func textual(t uint32) bool {
	return t == typeText || t == typeVarchar || t == typeBpchar || t == typeName
}

// base is the type that a domain is of, or t.
func (c *Catalog) base(t uint32) uint32 {
	for range 32 {
		d := c.Types[t]
		if d == nil || d.Kind != 'd' {
			break
		}
		t = d.Base
	}
	return t
}

// heirs are r and all that inherits from it, r first.
func (c *Catalog) heirs(r *Relation) []*Relation {
	list, seen := []*Relation{r}, map[*Relation]bool{r: true}
	for i := 0; i < len(list); i++ {
		for _, n := range list[i].Children {
			if p := c.Relations[n]; p != nil && !seen[p] {
				list, seen[p] = append(list, p), true
			}
		}
	}
	return list
}

// ancestors are what r inherits a column from.
func (c *Catalog) ancestors(r *Relation, column string) []*Relation {
	list, seen := []*Relation{r}, map[*Relation]bool{r: true}
	for i := 0; i < len(list); i++ {
		for _, n := range list[i].Parents {
			if p := c.Relations[n]; p != nil && !seen[p] && p.column(column) != nil {
				list, seen[p] = append(list, p), true
			}
		}
	}
	return list[1:]
}

func (r *Relation) column(name string) *Attribute {
	for i := range r.Columns {
		if r.Columns[i].Name == name {
			return &r.Columns[i]
		}
	}
	return nil
}

func (r *Relation) columnNames() []string {
	names := make([]string, len(r.Columns))
	for i, c := range r.Columns {
		names[i] = c.Name
	}
	return names
}

// own says that the relation is PostgreSQL's own: of its catalog or of information_schema.
func (r *Relation) own() bool {
	return r.OID < firstUser && (r.Name.Schema == "pg_catalog" || r.Name.Schema == "information_schema" || r.Name.Schema == "pg_toast")
}

// path are the schemas that an unqualified name is looked for in, in order. For relations and types the temporary schema comes first.
func (c *Catalog) path(st *State) []string {
	var list []string
	for _, s := range st.SearchPath {
		if s == "$user" {
			s = st.Role
		}
		if (s == tempSchema || c.Schemas[s]) && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	if !slices.Contains(list, "pg_catalog") {
		list = slices.Insert(list, 0, "pg_catalog")
	}
	if !slices.Contains(list, tempSchema) {
		list = slices.Insert(list, 0, tempSchema)
	}
	return list
}

// tempSchema is what the session's temporary schema is called by whoever does not know its number.
const tempSchema = "pg_temp"

func isTemp(schema string) bool {
	return schema == tempSchema || strings.HasPrefix(schema, "pg_temp_")
}
