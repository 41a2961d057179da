package statement

// Catalog is the target's catalog as one role sees it. It does not change after it was made, and is shared by sessions.
type Catalog struct {
	Version  int // server_version_num
	Database string
	Role     string // whose it is: USAGE of schemas, row security

	Schemas   map[string]bool      // that exist; true where the role has USAGE
	Relations map[Name]*Relation   //
	Functions map[Name][]*Routine  //
	Operators map[Name][]*Operator //
	Types     map[uint32]*Type     // by OID
	TypeNames map[Name]uint32      //
	Casts     map[[2]uint32]Cast   // from, to
	inherit   map[*Relation]map[string][]*Relation
}

// Name is a name in a schema.
type Name struct{ Schema, Name string }

// Relation is a table, view or the like.
type Relation struct {
	OID  uint32
	Name Name
	Kind byte // as pg_class.relkind: r, p, v, m, f, S, i, c, t

	Columns    []Attribute
	Definition string // of a view or materialized view, by pg_get_viewdef with an empty search_path
	Parents    []Name // that it inherits from, or whose partition it is
	Children   []Name

	Policies []string // expressions of row security that hold for the role
	Triggers []Trigger
	Rules    bool      // rules other than a view's own
	Cascades []Cascade // what deleting or changing its rows does to others'
}

// Attribute is a column of a relation.
type Attribute struct {
	Name      string
	Type      uint32
	Generated string // the expression; "" where it is not generated
}

// Trigger calls a function when rows are written.
type Trigger struct {
	Name     string
	Function Name
	Events   string // of "insert", "update", "delete", "truncate", space-separated
}

// Cascade is a foreign key that changes rows of the relation that has it.
type Cascade struct {
	Table    Name
	Columns  []string
	OnDelete bool // DELETE does something; otherwise UPDATE does
	Deletes  bool // rows; otherwise they are changed
}

// Routine is a function, aggregate, window function or procedure.
type Routine struct {
	OID        uint32
	Name       Name
	Kind       byte     // as pg_proc.prokind: f, a, w, p
	Volatility byte     // i, s, v
	Args       []uint32 // types of the arguments that go in
	Defaults   int      // how many at the end may be left out
	Variadic   uint32   // the type of an element, where the last takes any number; 0 otherwise
	Result     uint32
	Set        bool
	ArgNames   []string
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
	Kind      byte     // as pg_type.typtype: b, c, d, e, p, r, m
	Category  byte     // as pg_type.typcategory
	Preferred bool     //
	Base      uint32   // of a domain
	Element   uint32   // of a true array
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
