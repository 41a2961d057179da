package catalog

import (
	"context"
	"fmt"

	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

// Session is the state of a session that has just begun.
func Session(ctx context.Context, query Query) (*statement.State, error) {
	row, path, err := settings(ctx, query)
	if err != nil {
		return nil, err
	}
	st := statement.NewState(row[0], row[1], path, row[4] == "on")
	st.Settings = Meanings(row[6:])
	return st, nil
}

// Refresh makes the state what the server says it is, with the session's temporary relations. Where the session is in a transaction, inside says so.
func Refresh(ctx context.Context, query Query, st *statement.State, inside bool) error {
	row, path, err := settings(ctx, query)
	if err != nil {
		return err
	}
	var temp map[string]*statement.Relation
	var types map[string]bool
	if row[5] != "0" {
		if temp, types, err = temporary(ctx, query, inside); err != nil {
			return err
		}
	}
	st.Refresh(row[1], row[2], path, row[4] == "on", temp, types)
	st.Settings = Meanings(row[6:])
	return nil
}

// settings are database, session_user, current_user, search_path, standard_conforming_strings, the OID of the temporary schema, and what [Meaning] asks for.
func settings(ctx context.Context, query Query) ([]string, []string, error) {
	rows, err := query(ctx, "SELECT pg_catalog.current_database(), session_user, current_user, pg_catalog.current_setting('search_path'), pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.pg_my_temp_schema()::pg_catalog.oid"+Meaning())
	if err != nil {
		return nil, nil, fmt.Errorf("read the session's settings: %w", err)
	}
	if len(rows) != 1 || len(rows[0]) != 6+len(meaning) {
		return nil, nil, fmt.Errorf("read the session's settings: %d rows", len(rows))
	}
	path, ok := statement.SplitPath(rows[0][3])
	if !ok {
		return nil, nil, fmt.Errorf("read the session's settings: search_path is %q", rows[0][3])
	}
	return rows[0], path, nil
}

// temporary are the session's temporary relations, by name, and the names of its temporary types that are not of relations.
func temporary(ctx context.Context, query Query, inside bool) (temp map[string]*statement.Relation, types map[string]bool, err error) {
	end, err := quiet(ctx, query, inside)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if e := end(); err == nil && e != nil {
			temp, types, err = nil, nil, e
		}
	}()
	const own = "n.oid = pg_catalog.pg_my_temp_schema()"
	r := &reader{ctx: ctx, query: query, c: &statement.Catalog{Relations: map[statement.Name]*statement.Relation{}}, byOID: map[uint32]*statement.Relation{}, columns: map[uint32]map[int]string{}}
	r.relationsWhere(own)
	r.attributesWhere(own)
	r.inheritance()
	r.triggers()
	r.rules()
	r.partitionKeys()
	types = map[string]bool{}
	r.each("types", maxTypes, 1, "SELECT t.typname FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.typrelid = 0 AND "+own, func(row []string) {
		types[row[0]] = true
	})
	if r.err != nil {
		return nil, nil, fmt.Errorf("read the temporary relations: %w", r.err)
	}
	temp = map[string]*statement.Relation{}
	for name, rel := range r.c.Relations {
		temp[name.Name] = rel
	}
	return temp, types, nil
}
