-- What the cases are about. $1, $2 and so on stand for values that are masked: two databases have different ones.
CREATE ROLE agent;
CREATE SCHEMA shop;
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA shop, evil TO agent;
CREATE SCHEMA hidden; -- of which the agent has no USAGE

CREATE TABLE customers (
	id integer PRIMARY KEY, name text NOT NULL, email varchar(80) UNIQUE, ssn integer, note text, active boolean DEFAULT true, tags text[], doc jsonb,
	domain text GENERATED ALWAYS AS (substr(email, 1, 3)) STORED
);
INSERT INTO customers (id, name, email, ssn, note, tags, doc) VALUES
	(1, 'Ada', $1, $4, 'first', '{a,b}', '{"k": 1}'), (2, 'Bob', $2, $5, NULL, '{}', '{"k": 2}'), (3, 'Cy', $3, $6, 'third', NULL, NULL);

CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer REFERENCES customers ON DELETE CASCADE, total numeric, placed timestamptz, note text);
INSERT INTO orders VALUES (10, 1, 5.5, '2026-01-01', 'x'), (11, 1, 7, '2026-01-02', 'y'), (12, 2, 9, '2026-01-03', NULL);
CREATE TABLE shop.orders (id integer, label text);
INSERT INTO shop.orders VALUES (1, 'shop');
CREATE TABLE shop.items (id integer, price numeric);
INSERT INTO shop.items VALUES (1, 2), (2, 3);
CREATE TABLE hidden.orders (id integer);

CREATE TABLE events (id integer, at date, secret text) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO events VALUES (1, '2025-05-05', 'p'), (2, '2026-05-05', 'q');
CREATE TABLE halves (a integer, b text) PARTITION BY LIST (lower(b));
CREATE TABLE halves_x PARTITION OF halves FOR VALUES IN ('x') PARTITION BY RANGE (a);
CREATE TABLE halves_x_1 PARTITION OF halves_x FOR VALUES FROM (0) TO (10);
INSERT INTO halves VALUES (1, 'X');
CREATE TABLE assets (id integer, label text);
CREATE TABLE cars (plate text) INHERITS (assets);
INSERT INTO assets VALUES (1, 'desk');
INSERT INTO cars VALUES (2, 'car', 'AB-1');

CREATE VIEW customer_names AS SELECT id, name FROM customers;
CREATE VIEW customer_mail AS SELECT c.id, c.email AS mail, upper(c.name) AS shout FROM customers c;
CREATE VIEW customer_mail_again AS SELECT * FROM customer_mail WHERE id > 0;
CREATE VIEW customer_lower AS SELECT id, lower(email) AS low FROM customers;
CREATE VIEW customer_example AS SELECT id FROM customers WHERE email LIKE '%e%';
CREATE MATERIALIZED VIEW customer_copy AS SELECT id, email FROM customers;
CREATE TABLE log (line text);
CREATE SEQUENCE numbers;

CREATE FUNCTION write_log(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ($1); RETURN $1; END $$;
CREATE FUNCTION claims(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$;
CREATE FUNCTION known(text) RETURNS text STABLE LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION row_taker(customers) RETURNS text LANGUAGE sql AS $$ SELECT write_log($1.email) $$;
CREATE FUNCTION some_orders() RETURNS SETOF orders LANGUAGE sql AS $$ SELECT * FROM orders $$;
CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT public.write_log($1) $$;
CREATE FUNCTION public.upper(integer) RETURNS text LANGUAGE sql AS $$ SELECT public.write_log('n') $$;
CREATE FUNCTION public.count(customers) RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$;
CREATE TABLE evil.pg_class (relname text);
INSERT INTO evil.pg_class VALUES ('no');
CREATE FUNCTION always(integer, integer) RETURNS boolean LANGUAGE sql AS $$ SELECT write_log('op') IS NOT NULL $$;
CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = always);
CREATE FUNCTION evil.texteq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT public.write_log('eq') IS NOT NULL $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.texteq);
CREATE FUNCTION is_short(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ($1); RETURN true; END $$;
CREATE DOMAIN short AS text CHECK (is_short(VALUE));
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN required AS text NOT NULL;
CREATE DOMAIN few AS integer;
CREATE TABLE fews (n few, list few[]);
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE trap AS (s short);
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION pair_text(pair) RETURNS text LANGUAGE sql AS $$ SELECT write_log('cast') $$;
CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair) AS IMPLICIT;
CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE sql AS $$ SELECT to_json(write_log('json')) $$;
CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);

CREATE TABLE watched (id integer, v text);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (NEW.v); RETURN NEW; END $$;
CREATE TRIGGER watcher BEFORE INSERT OR UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION watch();
CREATE TABLE ruled (id integer);
CREATE RULE ruled_rule AS ON INSERT TO ruled DO ALSO INSERT INTO log VALUES ('rule');
CREATE TABLE guarded (id integer, owner text);
INSERT INTO guarded VALUES (1, 'agent');
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION may_see(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ($1); RETURN true; END $$;
CREATE POLICY guard ON guarded USING (may_see(owner));

GRANT ALL ON ALL TABLES IN SCHEMA public, shop, evil TO agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO agent;

CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE far (id integer, v text) SERVER elsewhere;
CREATE TABLE stamped (id integer, at text DEFAULT write_log('default'), n bigint DEFAULT nextval('numbers'), CHECK (is_short(at)));
CREATE VIEW volatile_view AS SELECT id, write_log(name) AS w FROM customers;
CREATE VIEW many_view AS SELECT id, unnest(tags) AS tag FROM customers;
GRANT ALL ON ALL TABLES IN SCHEMA public TO agent;
CREATE TYPE short_range AS RANGE (subtype = short);
CREATE TABLE traps (t trap, s short);
GRANT ALL ON traps TO agent;
CREATE TABLE limited (id integer PRIMARY KEY REFERENCES orders, low integer, high integer, code text, CHECK (low < high));
CREATE UNIQUE INDEX ON limited (lower(code));
GRANT ALL ON limited TO agent;
