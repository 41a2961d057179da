-- What only PostgreSQL 17 and 18 have, beside ../schema.sql.
CREATE TABLE stays (room int4range, during daterange, guest text, mail text, domain text GENERATED ALWAYS AS (substr(mail, 1, 3)) VIRTUAL, size integer GENERATED ALWAYS AS (length(guest)),
	PRIMARY KEY (room, during WITHOUT OVERLAPS));
INSERT INTO stays VALUES ('[1,2)', '[2026-01-01,2026-01-05)', 'Ada', 'ada@example.com'), ('[2,3)', '[2026-02-01,2026-02-05)', 'Bob', NULL);
CREATE VIEW stay_domains AS SELECT room, domain FROM stays;
CREATE TABLE counted (id integer GENERATED ALWAYS AS IDENTITY, n integer NOT NULL, CONSTRAINT few CHECK (n < 10) NOT ENFORCED);
CREATE SEQUENCE tickets;
GRANT ALL ON stays, stay_domains, counted, tickets TO agent;
