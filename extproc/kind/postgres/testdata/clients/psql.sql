SELECT 'SELECT name, iban FROM customers WHERE id = ' || id FROM customers ORDER BY id \gexec
SELECT 2 AS a \gset
SELECT :a, iban FROM customers ORDER BY id;
SELECT id, iban, balance, tags FROM customers \gdesc
SELECT 1 \; SELECT iban FROM customers ORDER BY id \; SELECT 2;
\echo :SERVER_VERSION_NUM :ROW_COUNT :ERROR
SELECT name, iban FROM customers WHERE id = $1 \bind 1 \g
SELECT name, iban FROM customers WHERE id = $1 \parse by_id
\bind_named by_id 2 \g
\bind_named by_id 3 \gx
\close_prepared by_id
SELECT iban FROM customers WHERE id = 1 \watch c=2 i=0.01
SELECT id, iban, age FROM customers ORDER BY 1 \crosstabview
\startpipeline
SELECT iban FROM customers WHERE id = $1 \bind 1 \sendpipeline
INSERT INTO copied VALUES ($1, $2) \bind 7 seven \sendpipeline
\flushrequest
\getresults 1
SELECT name FROM copied \bind \sendpipeline
\syncpipeline
DELETE FROM copied WHERE id = $1 \bind 7 \sendpipeline
\endpipeline
PREPARE p (int) AS SELECT name, iban FROM customers WHERE id = $1;
EXECUTE p (1);
DEALLOCATE p;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id, iban FROM customers ORDER BY id;
FETCH 2 FROM c;
FETCH BACKWARD 1 FROM c;
MOVE LAST IN c;
FETCH PRIOR FROM c;
CLOSE c;
ROLLBACK;
\if :{?a}
SELECT current_setting('server_version_num')::int >= 150000 AS new;
\endif
\sv banked
\z customers
