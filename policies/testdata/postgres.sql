-- What the statements of postgres.cases are about.
CREATE ROLE reader;
CREATE ROLE clerk;
CREATE SCHEMA hr;
CREATE TABLE customers (id integer PRIMARY KEY, name text, iban text);
CREATE TABLE orders (id integer PRIMARY KEY, customer integer REFERENCES customers, total numeric);
CREATE TABLE archive (LIKE orders);
CREATE TABLE hr.people (id integer PRIMARY KEY, name text, salary numeric);
CREATE TABLE hr."odd.name" (id integer);
CREATE VIEW known_customers AS SELECT id, name FROM customers;
CREATE TABLE events (id bigserial, at date, note text) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE FUNCTION known(integer) RETURNS text LANGUAGE sql AS 'SELECT iban FROM customers WHERE id = $1';
CREATE FUNCTION dblink(text, text) RETURNS SETOF record LANGUAGE sql AS 'SELECT 1'; -- as the extension has it, which may not be installed
CREATE FUNCTION crosstab(text) RETURNS SETOF record LANGUAGE sql AS 'SELECT 1';
