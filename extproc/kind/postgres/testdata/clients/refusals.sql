\set VERBOSITY verbose
\set SHOW_CONTEXT never
SELECT * FROM closed;
SELECT name FROM customers WHERE iban = 'DE1';
SELECT name FROM customers WHERE id = $1 \bind 999 \g
DELETE FROM bookings;
SELECT nothing FROM customers;
BEGIN;
INSERT INTO copied VALUES (1, 'undone');
TABLE closed;
SELECT 1;
COMMIT;
BEGIN;
SAVEPOINT a;
TABLE closed;
ROLLBACK TO a;
SELECT 'goes on';
COMMIT;
SELECT 1 \; TABLE closed;
\startpipeline
SELECT 1 \bind \sendpipeline
TABLE closed \bind \sendpipeline
SELECT 2 \bind \sendpipeline
\syncpipeline
SELECT 3 \bind \sendpipeline
\endpipeline
COPY closed FROM STDIN;
\.
TABLE copied;
