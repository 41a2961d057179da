import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.Arrays;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.util.PSQLException;

/** JDBC with the database that libpq's environment names: "work" prints what it does, "refusals" what refusals look like. */
public class Jdbc {
    public static void main(String[] args) throws Exception {
        var env = System.getenv();
        var p = new Properties();
        p.setProperty("user", env.get("PGUSER"));
        p.setProperty("password", env.get("PGPASSWORD"));
        p.setProperty("sslmode", "verify-full");
        p.setProperty("sslrootcert", env.get("PGSSLROOTCERT"));
        p.setProperty("prepareThreshold", "1"); // prepared at the server at once, and then in binary
        p.setProperty("reWriteBatchedInserts", "true");
        try (var c = DriverManager.getConnection("jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE"), p)) {
            if (args[0].equals("work")) {
                work(c);
            } else {
                refusals(c);
            }
        }
    }

    static void print(ResultSet r) throws SQLException {
        var m = r.getMetaData();
        while (r.next()) {
            var line = new StringBuilder();
            for (int i = 1; i <= m.getColumnCount(); i++) {
                var o = r.getObject(i);
                line.append(o instanceof byte[] b ? Arrays.toString(b) : String.valueOf(o)).append(" | ");
            }
            System.out.println(line);
        }
    }

    static void work(Connection c) throws Exception {
        for (int i = 0; i < 3; i++) { // from the second on, it is prepared and binary
            try (var s = c.prepareStatement("SELECT id, name, iban, age, balance, raw, key, active, doc, stay, feels, tags FROM customers WHERE id < ? ORDER BY id")) {
                s.setInt(1, 3);
                print(s.executeQuery());
                System.out.println(s.unwrap(PGStatement.class).isUseServerPrepare());
            }
        }
        try (var s = c.prepareStatement("SELECT ?::bigint, ?::float8, ?::text, ?::date, ?::numeric, ?::boolean, ?::int[]")) {
            for (int i = 0; i < 3; i++) {
                s.setLong(1, 1L << 40);
                s.setDouble(2, 1.5);
                s.setString(3, "é");
                s.setObject(4, java.time.LocalDate.of(2026, 1, 31));
                s.setBigDecimal(5, new java.math.BigDecimal("1.10"));
                s.setBoolean(6, true);
                s.setArray(7, c.createArrayOf("int4", new Integer[] {1, null, 3}));
                print(s.executeQuery());
            }
        }
        c.setAutoCommit(false);
        try (var s = c.prepareStatement("SELECT id, iban FROM customers ORDER BY id")) {
            s.setFetchSize(2); // a portal with a limit of rows
            print(s.executeQuery());
        }
        try (var s = c.prepareStatement("INSERT INTO copied VALUES (?, ?)")) {
            for (int i = 0; i < 200; i++) {
                s.setInt(1, i);
                s.setString(2, "row " + i);
                s.addBatch();
            }
            System.out.println(s.executeBatch().length);
        }
        try (var s = c.createStatement()) {
            print(s.executeQuery("SELECT count(*), max(name) FROM copied"));
            s.addBatch("UPDATE copied SET name = 'x' WHERE id = 1");
            s.addBatch("DELETE FROM copied WHERE id > 1");
            System.out.println(Arrays.toString(s.executeBatch()));
            var point = c.setSavepoint();
            try {
                s.execute("SELECT 1/0");
            } catch (SQLException e) {
                System.out.println(e.getSQLState() + " " + e.getMessage());
            }
            c.rollback(point);
            s.executeUpdate("INSERT INTO bookings (customer_id, total) VALUES (1, 2)", Statement.RETURN_GENERATED_KEYS);
            print(s.getGeneratedKeys());
        }
        c.rollback();
        c.setAutoCommit(true);
        try (var s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            var r = s.executeQuery("SELECT id, note FROM bookings WHERE id = 1");
            r.next();
            r.updateString("note", "changed");
            r.updateRow();
            print(s.executeQuery("SELECT id, note FROM bookings WHERE id = 1"));
            System.out.println(s.execute("SELECT 1; SELECT account FROM banked WHERE false; SELECT 3") + " " + s.getMoreResults() + " " + s.getMoreResults());
        }
        var copy = c.unwrap(PGConnection.class).getCopyAPI();
        var out = new ByteArrayOutputStream();
        System.out.println(copy.copyOut("COPY customers (id, iban) TO STDOUT", out) + " " + out);
        System.out.println(copy.copyIn("COPY copied FROM STDIN", new ByteArrayInputStream("1\tone\n2\ttwo\n".getBytes(StandardCharsets.UTF_8))));
        try (var s = c.createStatement()) {
            System.out.println(s.executeUpdate("DELETE FROM copied WHERE id > 0"));
        }
        var m = c.getMetaData();
        print(m.getTables(null, "public", "%", new String[] {"TABLE", "VIEW"}));
        print(m.getColumns(null, "public", "customers", "%"));
        print(m.getPrimaryKeys(null, "public", "bookings"));
        print(m.getImportedKeys(null, "public", "bookings"));
        print(m.getIndexInfo(null, "public", "bookings", false, true));
        c.setReadOnly(true);
        try (var s = c.createStatement()) {
            s.execute("DELETE FROM copied WHERE id = 1");
        } catch (SQLException e) {
            System.out.println(e.getSQLState() + " " + e.getMessage());
        }
    }

    interface Act {
        void run() throws SQLException;
    }

    static void refusal(String name, Act f) {
        try {
            f.run();
            System.out.println(name + " was not refused");
        } catch (SQLException e) {
            Throwable t = e instanceof BatchUpdateException ? e.getCause() : e;
            var said = ((PSQLException) t).getServerErrorMessage();
            System.out.println(name + " " + e.getClass().getSimpleName() + " " + e.getSQLState() + " " + said.getMessage() + " | " + said.getDetail() + " | " + said.getHint());
        }
    }

    static void refusals(Connection c) throws Exception {
        refusal("denied", () -> c.createStatement().execute("SELECT * FROM closed"));
        refusal("denied, prepared", () -> c.prepareStatement("SELECT * FROM closed").executeQuery());
        refusal("masked", () -> c.createStatement().execute("SELECT upper(iban) FROM customers"));
        refusal("held", () -> c.createStatement().execute("DELETE FROM bookings"));
        try (var s = c.prepareStatement("SELECT name FROM customers WHERE id = ?")) {
            for (int i = 0; i < 3; i++) {
                s.setInt(1, 1);
                print(s.executeQuery());
                refusal("value", () -> {
                    s.setInt(1, 999);
                    s.executeQuery();
                });
            }
        }
        c.setAutoCommit(false);
        refusal("batch", () -> {
            try (var s = c.prepareStatement("UPDATE copied SET id = ? WHERE id = 5")) {
                for (int n : new int[] {1, 999, 2}) {
                    s.setInt(1, n);
                    s.addBatch();
                }
                s.executeBatch();
            }
        });
        refusal("failed", () -> c.createStatement().execute("SELECT 1"));
        c.rollback();
        print(c.createStatement().executeQuery("SELECT 1"));
    }
}
