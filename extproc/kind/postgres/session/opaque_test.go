package session_test

import (
	"testing"
)

const allowsAll = "package rules.orders\n\nallow contains {\"id\": \"all\"}\n"

// hiddenCode: what runs code that nobody can see into is for policy to allow, unless policy masks columns; and what it may have put in the place
// of something that has a name is not run under that name.
func hiddenCode(t *testing.T, w *world) {
	const replaces = "DO $$ BEGIN EXECUTE 'DEALLOCATE kept'; EXECUTE 'PREPARE kept AS DELETE FROM items WHERE id < 0'; END $$"
	w.postgres.SQL("orders", `CREATE TABLE watched (id int); CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER watch BEFORE INSERT ON watched FOR EACH ROW EXECUTE FUNCTION watch(); GRANT ALL ON watched TO app`)
	defer w.postgres.SQL("orders", "DROP TABLE watched; DROP FUNCTION watch")
	for name, c := range map[string]struct {
		policy string
		steps  [][2]string
	}{
		"no rule allows it": {"package rules.orders\n\nallow contains {\"id\": \"known\"} if input.postgres.access != \"unknown\"\n", [][2]string{
			{"DO $$ BEGIN PERFORM 1; END $$", "E(42501)Z(I)"},
		}},
		"a rule allows what is opaque": {"package rules.orders\n\nallow contains {\"id\": \"opaque\"} if {\n\tinput.postgres.access == \"unknown\"\n\tinput.postgres.opaque\n}\n", [][2]string{
			{"DO $$ BEGIN PERFORM 1; END $$", "CZ(I)"}, {"SELECT * FROM nowhere", "E(42P01)Z(I)"}, {"SELECT 1", "E(42501)Z(I)"},
		}},
		"policy masks a column": {allowsAll + "\nredact contains {\"column\": \"public.items.name\"}\n", [][2]string{
			{"DO $$ BEGIN PERFORM 1; END $$", "E(42501)Z(I)"}, {"SELECT query_to_xml('SELECT name FROM items', true, true, '')", "E(42501)Z(I)"},
		}},
		"policy masks a column, and code is defined": {allowsAll + "\nredact contains {\"column\": \"public.items.name\"}\n", [][2]string{
			{"CREATE FUNCTION reads() RETURNS text LANGUAGE sql AS 'SELECT name FROM items'", "E(42501)Z(I)"},
			{"CREATE RULE r AS ON DELETE TO items DO INSTEAD SELECT name FROM items", "E(42501)Z(I)"},
			{"CREATE TRIGGER t BEFORE INSERT ON written FOR EACH ROW EXECUTE FUNCTION watch()", "E(42501)Z(I)"},
			{"CREATE TABLE d (name text DEFAULT watch())", "E(42501)Z(I)"},
			{"CREATE CAST (items AS text) WITH FUNCTION watch(items)", "E(42501)Z(I)"},
			{"ALTER TABLE items RENAME name TO other", "E(42501)Z(I)"},
			{"CREATE TEMPORARY TABLE plain (name text DEFAULT now())", "CZ(I)"},
		}},
		"what is prepared stays": {allowsAll, [][2]string{
			{"P", "1Z(I)"}, {"DO $$ BEGIN PERFORM 1; END $$", "CZ(I)"}, {"B", "2DCZ(I)"}, {"EXECUTE kept", "TDCZ(I)"},
		}},
		"unless it is another": {allowsAll, [][2]string{
			{"P", "1Z(I)"}, {replaces, "CZ(I)"}, {"B", "E(26000)Z(I)"}, {"EXECUTE kept", "E(26000)Z(I)"},
		}},
		"a cursor stays": {allowsAll, [][2]string{
			{"BEGIN", "CZ(T)"}, {"DECLARE c CURSOR FOR SELECT id FROM items ORDER BY id;", "CZ(T)"}, {"INSERT INTO watched VALUES (1)", "CZ(T)"}, {"FETCH 1 FROM c", "TDCZ(T)"}, {"ROLLBACK", "CZ(I)"},
		}},
		"unless it is another's": {allowsAll, [][2]string{
			{"BEGIN", "CZ(T)"},
			{"DECLARE c CURSOR FOR SELECT id FROM items", "CZ(T)"},
			{"DO $$ BEGIN EXECUTE 'CLOSE c'; EXECUTE 'DECLARE c CURSOR FOR SELECT name FROM items'; END $$", "CZ(T)"},
			{"FETCH 1 FROM c", "E(34000)Z(E)"},
			{"ROLLBACK", "CZ(I)"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.start(t, options{policy: c.policy})
			c2 := r.raw()
			for _, step := range c.steps {
				switch step[0] {
				case "P":
					c2.send(message('P', "kept\x00SELECT id FROM items WHERE id = 1\x00\x00\x00"), message('S', ""))
				case "B":
					c2.send(message('B', "\x00kept\x00\x00\x00\x00\x00\x00\x00"), message('E', "\x00\x00\x00\x00\x00"), message('S', ""))
				default:
					c2.send(message('Q', step[0]+"\x00"))
				}
				if got := c2.until('Z'); got != step[1] {
					t.Errorf("%s: %s, want %s", step[0], got, step[1])
				}
			}
		})
	}
}
