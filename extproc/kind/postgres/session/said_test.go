package session_test

import (
	"strings"
	"testing"
)

// saidBeside: what is said beside rows has no masked value, whoever says it, and is looked at where there are detectors.
func saidBeside(t *testing.T, w *world) {
	w.postgres.SQL("orders", `SET ROLE app;
		CREATE TABLE vault (id int PRIMARY KEY, secret text UNIQUE, note text CHECK (note <> 'bad'));
		CREATE TABLE chest (id int, note text);
		CREATE TABLE doubles (id int PRIMARY KEY);
		INSERT INTO doubles VALUES (1);
		INSERT INTO vault VALUES (1, 'sesame@example.com', 'n');
		INSERT INTO chest VALUES (1, 'n');
		CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE s text; BEGIN
			SELECT secret INTO s FROM vault WHERE id = 1;
			RAISE NOTICE 'the secret is %', s;
			PERFORM pg_notify('talk', s), set_config('application_name', s, false);
			IF NEW.note = 'message' THEN RAISE EXCEPTION 'it is %', s USING ERRCODE = '23514'; END IF;
			IF NEW.note = 'fields' THEN RAISE EXCEPTION 'no' USING ERRCODE = '23514', DETAIL = s, HINT = s, TABLE = s, COLUMN = s, CONSTRAINT = s, DATATYPE = s, SCHEMA = s; END IF;
			IF NEW.note = 'cast' THEN PERFORM s::int; END IF;
			RETURN NEW; END $$;
		CREATE TRIGGER telling BEFORE UPDATE ON chest FOR EACH ROW EXECUTE FUNCTION tell();`)
	defer w.postgres.SQL("orders", "DROP TABLE vault, chest, doubles; DROP FUNCTION tell()")
	for name, rule := range map[string]string{
		"a column": `redact contains {"column": "public.vault.secret"}`, "a detector": `redact contains {"detect": "email"}`,
	} {
		r := w.start(t, options{plain: true, policy: "package rules.orders\n\nallow contains {\"id\": \"all\"} if input.postgres.access != \"unknown\"\n\n" + rule + "\n"})
		c := r.session("orders")
		c.answer("", message('Q', "LISTEN talk\x00"))
		var seen strings.Builder
		for _, sql := range []string{
			"UPDATE chest SET note = 'quiet' WHERE id = 1", "UPDATE chest SET note = 'message' WHERE id = 1", "UPDATE chest SET note = 'fields' WHERE id = 1", "UPDATE chest SET note = 'cast' WHERE id = 1",
			"UPDATE vault SET note = 'bad' WHERE id = 1", "INSERT INTO doubles VALUES (1)", "INSERT INTO vault VALUES (2, 'sesame@example.com', 'y')", "SELECT 1",
		} {
			seen.WriteString(c.answer("ENAS", message('Q', sql+"\x00")))
			seen.WriteString(c.answer("ENAS", extended(sql, 0)))
		}
		got := seen.String()
		if strings.Contains(got, "sesame") {
			t.Errorf("where policy redacts %s this is said:\n%s", name, got)
		}
		if strings.Count(got, "[redacted]") < 2 || !strings.Contains(got, "C23514") || !strings.Contains(got, "C22P02") || !strings.Contains(got, "Mduplicate key value violates unique constraint \\\"doubles_pkey\\\"") {
			t.Errorf("where policy redacts %s this is not said:\n%s", name, got)
		}
		if name == "a detector" && !strings.Contains(got, "the secret is [redacted]") {
			t.Errorf("a notice is not looked at but lost:\n%s", got)
		}
		_ = c.Close()
	}
}
