"""psycopg 3 with the database that libpq's environment names: "work" prints what it does, "refusals" what refusals look like."""
import sys
import psycopg
from psycopg.types.range import Range


def work(conn):
    everything = "SELECT id, name, iban, tags FROM customers ORDER BY id"
    for binary in (False, True):
        cur = conn.cursor(binary=binary)
        for row in cur.execute("SELECT * FROM customers WHERE id <> 3 ORDER BY id"):
            print("binary" if binary else "text", row)
        print([(c.name, min(c.type_code, 16384)) for c in cur.description])
        print(cur.execute("SELECT name, iban FROM customers WHERE id = %s AND name = %s", [1, "Ada"]).fetchone())
        print(cur.execute("SELECT %s::int4range, %s::text[], %s::bytea, %s::jsonb", [Range(1, 5), ["a", None], b"\0\xff", '{"a": 1}']).fetchone())
    for _ in range(7):  # it prepares the fifth
        print(conn.execute("SELECT iban FROM customers WHERE id = %s", [2], prepare=True).fetchone())
    conn.commit()

    with conn.pipeline() as p:
        first = conn.execute("INSERT INTO bookings (customer_id, total) VALUES (%s, %s) RETURNING id, total", [1, 5])
        second = conn.execute("SELECT name, iban FROM customers WHERE id = %s", [3])
        p.sync()
        third = conn.execute("DELETE FROM bookings WHERE note IS NULL")
    print("pipeline", first.fetchall(), second.fetchall(), third.rowcount)

    with conn.transaction():
        with conn.cursor("named") as cur:
            cur.itersize = 2
            cur.execute(everything)
            print("cursor", [r[2] for r in cur.fetchmany(2)], [r[2] for r in cur])
        with conn.cursor("moving", scrollable=True, withhold=True) as cur:
            cur.execute("SELECT id, iban FROM customers ORDER BY id")
            cur.scroll(2)
            print("moved", cur.fetchone())
            cur.scroll(0, mode="absolute")
            print("back", cur.fetchall())

    cur = conn.cursor()
    with cur.copy("COPY customers (id, iban, name) TO STDOUT") as copy:
        print("copy out", b"".join(copy))
    with cur.copy("COPY (SELECT id, name FROM customers ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        print("copy out, binary", list(copy.rows()))
    with cur.copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        for i in range(300):
            copy.write_row((i, "row %d" % i))
    print("copy in", cur.rowcount, cur.execute("SELECT count(*), max(name) FROM copied").fetchone())
    cur.executemany("UPDATE copied SET name = %s WHERE id = %s RETURNING id", [("x", 1), ("y", 2)], returning=True)
    print("executemany", [r.fetchall() for r in cur.results()])
    conn.rollback()

    try:
        with conn.transaction():
            conn.execute("INSERT INTO copied VALUES (1, 'one')")
            try:
                with conn.transaction():
                    conn.execute("SELECT 1/0")
            except psycopg.errors.DivisionByZero as e:
                print("savepoint", e.sqlstate, e)
            print(conn.execute("TABLE copied").fetchall())
            raise psycopg.Rollback()
    except psycopg.Rollback:
        pass
    for bad in ("SELECT nothing FROM customers", "SELECT * FROM nowhere", "SELEC 1", "INSERT INTO bookings (customer_id, total) VALUES (77, 1)"):
        try:
            conn.execute(bad)
        except psycopg.Error as e:
            print(type(e).__name__, e.sqlstate, e.diag.message_primary, e.diag.statement_position, e.diag.constraint_name)
        conn.rollback()

    conn.autocommit = True
    conn.execute("LISTEN news")
    conn.execute("NOTIFY news, '[redacted]'")
    for n in conn.notifies(stop_after=1):
        print(n.channel, n.payload)
    conn.execute("UNLISTEN *")


def refusal(name, f):
    try:
        f()
        print(name, "was not refused")
    except psycopg.Error as e:
        d = e.diag
        print(name, type(e).__name__, e.sqlstate, d.message_primary, "|", d.message_detail, "|", d.message_hint)


def refusals(conn):
    refusal("denied", lambda: conn.execute("SELECT * FROM closed"))
    print(conn.info.transaction_status.name)
    refusal("failed", lambda: conn.execute("SELECT 1"))
    conn.rollback()
    refusal("value", lambda: conn.execute("SELECT %s::int", [999]))
    conn.rollback()
    refusal("value, binary", lambda: conn.execute("SELECT name FROM customers WHERE id = %b", [999]))
    conn.rollback()
    refusal("masked", lambda: conn.execute("SELECT name FROM customers WHERE iban = %s", ["DE1"]))
    conn.rollback()
    refusal("held", lambda: conn.execute("DELETE FROM bookings"))
    conn.rollback()
    refusal("copy", lambda: conn.cursor().copy("COPY closed FROM STDIN").__enter__())
    conn.rollback()

    def pipeline():
        with conn.pipeline():
            conn.execute("INSERT INTO copied VALUES (1, 'undone')")
            conn.execute("SELECT * FROM closed")
            conn.execute("INSERT INTO copied VALUES (2, 'never')")
    refusal("pipeline", pipeline)
    conn.rollback()
    with conn.transaction():
        conn.execute("INSERT INTO copied VALUES (3, 'kept')")

        def nested():
            with conn.transaction():
                conn.execute("SELECT * FROM closed")
        refusal("nested", nested)
    print(conn.execute("TABLE copied").fetchall())
    conn.execute("DELETE FROM copied WHERE id = 3")
    conn.commit()


with psycopg.connect("") as connection:
    globals()[sys.argv[1]](connection)
