package extproctest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const postgresBudget = 60 * time.Second

// FindPostgres returns the directory with the programs of a PostgreSQL server: that of postgres on PATH, else the newest that the
// system's packages have.
func FindPostgres() (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	major := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	if len(found) == 0 {
		return "", fmt.Errorf("there is no PostgreSQL server on PATH and in /usr/lib/postgresql; bring one with: make parts (or apt-get install postgresql postgresql-client)")
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(major(a), major(b)) })), nil
}

// PostgresConfig is how to run a PostgreSQL server. Its zero value is one on a free port, without TLS, of one superuser.
type PostgresConfig struct {
	Bin       string     // the directory of its programs, as of [Postgres18]; that of [FindPostgres] unless set
	Authority *Authority // issues its certificate, and vouches for clients that show one; without it there is no TLS
	Name      string     // of its certificate; "db.test" unless set
	HBA       []string   // lines of pg_hba.conf, before the one that lets everybody in with a password
	Lines     []string   // of postgresql.conf
	SQL       string     // run at the start, by the superuser in database postgres
}

// Postgres is a running PostgreSQL server. Its superuser is postgres, who is let in by the socket.
type Postgres struct {
	*Process
	Port    int
	Address string // 127.0.0.1:PORT
	Dir     string // of its socket, files and data

	bin     string
	program Command
}

// StartPostgres runs a PostgreSQL server and returns when it answers. The server refuses to be root: a test that is root runs it as
// nobody.
func StartPostgres(tb TB, c PostgresConfig) *Postgres {
	tb.Helper()
	p := &Postgres{Port: FreePort(tb), Dir: Dir(tb), bin: c.Bin}
	p.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Port))
	if p.bin == "" {
		var err error
		if p.bin, err = FindPostgres(); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	as, err := Unprivileged()
	if err == nil && as != nil {
		p.bin, err = runnable(p.bin, p.Dir)
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	write := func(name, text string) string {
		path := filepath.Join(p.Dir, name)
		err := os.WriteFile(path, []byte(text), 0o600)
		if err == nil && as != nil {
			err = os.Chown(path, int(as.Uid), int(as.Gid))
		}
		if err != nil {
			tb.Fatalf("%v", err)
		}
		return path
	}
	if as != nil {
		if err := os.Chown(p.Dir, int(as.Uid), int(as.Gid)); err != nil {
			tb.Fatalf("%v", err)
		}
	}
	data := filepath.Join(p.Dir, "data")
	initdb := exec.CommandContext(context.Background(), filepath.Join(p.bin, "initdb"), "--pgdata", data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = p.Dir, &syscall.SysProcAttr{Credential: as}
	if out, err := initdb.CombinedOutput(); err != nil {
		tb.Fatalf("initdb: %v\n%s", err, out)
	}
	lines := []string{
		"listen_addresses = '127.0.0.1'", "port = " + strconv.Itoa(p.Port), "unix_socket_directories = '" + p.Dir + "'",
		"fsync = off", "synchronous_commit = off", "full_page_writes = off", "max_connections = 300", "shared_buffers = 32MB", "log_min_messages = warning",
		"hba_file = '" + write("pg_hba.conf", strings.Join(slices.Concat([]string{"local all postgres trust"}, c.HBA, []string{"host all all 127.0.0.1/32 scram-sha-256"}), "\n")+"\n") + "'",
	}
	if c.Authority != nil {
		issued := c.Authority.Issue(cmp.Or(c.Name, "db.test"))
		for name, from := range map[string]string{"server.pem": issued.CertFile, "server.key": issued.KeyFile, "ca.pem": c.Authority.CAFile} {
			text, err := os.ReadFile(from)
			if err != nil {
				tb.Fatalf("%v", err)
			}
			write(name, string(text))
		}
		lines = append(lines, "ssl = on", "ssl_cert_file = '"+p.Dir+"/server.pem'", "ssl_key_file = '"+p.Dir+"/server.key'", "ssl_ca_file = '"+p.Dir+"/ca.pem'")
	}
	config := write("postgresql.conf", strings.Join(append(lines, c.Lines...), "\n")+"\n")
	p.program = Command{Name: "postgres", Path: filepath.Join(p.bin, "postgres"), Args: []string{"-D", data, "-c", "config_file=" + config}, Dir: p.Dir, As: as, Stop: syscall.SIGINT}
	p.launch(tb)
	if c.SQL != "" {
		p.SQL("postgres", c.SQL)
	}
	return p
}

// launch starts the server and returns when it answers.
func (p *Postgres) launch(tb TB) {
	tb.Helper()
	p.Process = Start(tb, p.program)
	p.awaitReady(postgresBudget, func(ctx context.Context) error {
		_, err := p.psql(ctx, "postgres", "SELECT 1")
		return err
	})
}

// Restart has the server end its sessions and stop, and runs it again.
func (p *Postgres) Restart() {
	p.tb.Helper()
	p.Stop()
	p.launch(p.tb)
}

// SQL runs statements in a database as the superuser, past any gateway, and returns what psql prints of them, unaligned.
func (p *Postgres) SQL(database, text string) string {
	p.tb.Helper()
	out, err := p.psql(context.Background(), database, text)
	if err != nil {
		p.tb.Fatalf("%v", err)
	}
	return out
}

func (p *Postgres) psql(ctx context.Context, database, text string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "psql"), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1", "--host", p.Dir, "--port", strconv.Itoa(p.Port), "--username", "postgres", "--dbname", database)
	cmd.Stdin = strings.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("psql: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// Rows runs statements by a connection, and returns the rows of all, as text.
func Rows(ctx context.Context, c *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, r := range results {
		for _, row := range r.Rows {
			list := make([]string, len(row))
			for i, v := range row {
				list[i] = string(v)
			}
			rows = append(rows, list)
		}
	}
	return rows, nil
}

// Unprivileged is the user nobody where this process is root's, else nil.
func Unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to be root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}
