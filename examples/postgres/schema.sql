-- The roles and tables of this example. Run it once, as the server's superuser. The passwords are those that README.md writes to
-- the gateway's files; no agent has them.
CREATE ROLE app_reader LOGIN PASSWORD 'reader-password';
CREATE ROLE app_writer LOGIN PASSWORD 'writer-password';

-- A net below the policy, at the server itself: what a role cannot do, no mistake in a rule allows.
ALTER ROLE app_reader SET default_transaction_read_only = on;
ALTER ROLE app_reader SET statement_timeout = '30s';
ALTER ROLE app_writer SET statement_timeout = '30s';

CREATE DATABASE orders;
REVOKE ALL ON DATABASE orders FROM PUBLIC;
GRANT CONNECT ON DATABASE orders TO app_reader, app_writer;
\connect orders

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO app_reader, app_writer;

CREATE TABLE customers (id integer PRIMARY KEY, name text NOT NULL, email text, iban text, note text);
CREATE TABLE orders (id integer PRIMARY KEY, customer integer NOT NULL REFERENCES customers, total numeric(10, 2), placed date);
INSERT INTO customers VALUES
	(1, 'Ada Example', 'ada@example.com', 'GB82WEST12345698765432', NULL),
	(2, 'Bob Example', 'bob@example.com', 'DE89370400440532013000', NULL),
	(3, 'Eve Example', 'eve@example.com', NULL, NULL);
INSERT INTO orders VALUES (10, 1, 27.50, '2026-01-31'), (11, 1, 12.00, '2026-02-01'), (12, 2, 99.00, '2026-02-03');

GRANT SELECT ON ALL TABLES IN SCHEMA public TO app_reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_writer;
