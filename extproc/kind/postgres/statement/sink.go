package statement

import (
	"cmp"
	"maps"
	"slices"
)

// A sink collects what a statement, or a part of it, does.
type sink struct {
	access        Access
	opaque, locks bool
	code          bool // defines code
	set           bool // a function was called that returns a set

	reads, writes map[Name]map[string]bool // the columns of each relation
	uses          map[Use]bool
	functions     map[Function]bool
	exposes       map[string]bool
}

func newSink() *sink {
	return &sink{
		access: Read, reads: map[Name]map[string]bool{}, writes: map[Name]map[string]bool{},
		uses: map[Use]bool{}, functions: map[Function]bool{}, exposes: map[string]bool{},
	}
}

// raise makes the access a, unless it is stronger already.
func (s *sink) raise(a Access) {
	if a.rank() > s.access.rank() {
		s.access = a
	}
}

func columnsOf(m map[Name]map[string]bool, n Name, columns ...string) {
	if m[n] == nil {
		m[n] = map[string]bool{}
	}
	for _, c := range columns {
		m[n][c] = true
	}
}

func (s *sink) read(n Name, columns ...string)  { columnsOf(s.reads, n, columns...) }
func (s *sink) write(n Name, columns ...string) { columnsOf(s.writes, n, columns...) }

// add adds what o has collected.
func (s *sink) add(o *sink) {
	if o == nil || o == s {
		return
	}
	s.raise(o.access)
	s.opaque, s.locks, s.set, s.code = s.opaque || o.opaque, s.locks || o.locks, s.set || o.set, s.code || o.code
	for n, columns := range o.reads {
		s.read(n, slices.Collect(maps.Keys(columns))...)
	}
	for n, columns := range o.writes {
		s.write(n, slices.Collect(maps.Keys(columns))...)
	}
	maps.Copy(s.uses, o.uses)
	maps.Copy(s.functions, o.functions)
	maps.Copy(s.exposes, o.exposes)
}

func (s *sink) into(a *Analysis) {
	a.Access, a.Opaque, a.Locks, a.Code = s.access, s.opaque, s.locks, s.code || s.opaque && s.access == Schema
	a.Reads, a.Writes = tables(s.reads), tables(s.writes)
	a.Functions = slices.SortedFunc(maps.Keys(s.functions), func(a, b Function) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Volatility, b.Volatility))
	})
	a.Uses = slices.SortedFunc(maps.Keys(s.uses), func(a, b Use) int {
		return cmp.Or(compareRefs(a.ColumnRef, b.ColumnRef), cmp.Compare(a.How, b.How))
	})
	for n, column := range secrets {
		if s.reads[n][column] {
			s.exposes[n.String()] = true
		}
	}
	a.Exposes = slices.Sorted(maps.Keys(s.exposes))
}

func compareRefs(a, b ColumnRef) int {
	return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Column, b.Column))
}

func tables(m map[Name]map[string]bool) []Table {
	list := []Table{}
	for n, columns := range m {
		names := slices.Sorted(maps.Keys(columns))
		if names == nil {
			names = []string{}
		}
		list = append(list, Table{n.Schema, n.Name, names})
	}
	slices.SortFunc(list, func(a, b Table) int { return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Table, b.Table)) })
	return list
}
