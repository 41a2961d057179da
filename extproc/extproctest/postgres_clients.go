package extproctest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// pins are the releases and checksums of the clients: for pip, npm and, in [pgjdbc], for Maven.
//
//go:embed testdata/postgres-clients
var pins embed.FS

// pgjdbc is PostgreSQL's JDBC driver.
const (
	pgjdbc       = "org.postgresql:postgresql:42.7.14"
	pgjdbcFile   = "postgresql-42.7.14.jar"
	pgjdbcSHA256 = "73914527305a40cce504b0d3d90b23caf565136912d607ae8ae7c5895512332c"
	mavenCopy    = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
)

// PostgresClients are the clients of PostgreSQL that tests run, each for a language: psycopg, SQLAlchemy and Alembic, node-postgres, pgjdbc.
type PostgresClients struct{ Dir string }

// Python returns how to run a Python script with the clients.
func (c PostgresClients) Python(ctx context.Context, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "python3", append([]string{"-B", script}, args...)...)
	cmd.Env = append(cmd.Environ(), "PYTHONPATH="+filepath.Join(c.Dir, "python"))
	return cmd
}

// Node returns how to run a script of Node.js with the clients.
func (c PostgresClients) Node(ctx context.Context, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Env = append(cmd.Environ(), "NODE_PATH="+filepath.Join(c.Dir, "node", "node_modules"))
	return cmd
}

// Java returns how to run a Java program of one source file with the driver.
func (c PostgresClients) Java(ctx context.Context, source string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "java", append([]string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", filepath.Join(c.Dir, pgjdbcFile), source}, args...)...)
}

// Clients returns the clients of PostgreSQL. A missing one fails the test.
func Clients(tb TB) PostgresClients {
	tb.Helper()
	return PostgresClients{findPart(tb, Parts.FindPostgresClients)}
}

// PostgresClients returns the directory of the clients, fetching them when there are none.
func (p Parts) PostgresClients(ctx context.Context) (string, error) {
	return p.bring(ctx, p.FindPostgresClients, p.fetchPostgresClients)
}

// clientsDir is named after what was fetched into it.
func (p Parts) clientsDir() string {
	sum := sha256.New()
	_ = fs.WalkDir(pins, ".", func(path string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			text, _ := pins.ReadFile(path)
			sum.Write(text)
		}
		return nil
	})
	io.WriteString(sum, pgjdbcSHA256)
	return filepath.Join(p.Dir, "postgres-clients-"+hex.EncodeToString(sum.Sum(nil))[:12])
}

// FindPostgresClients returns the directory of the clients that were fetched.
func (p Parts) FindPostgresClients(context.Context) (string, error) {
	dir := p.clientsDir()
	if !exists(dir) {
		return "", fmt.Errorf("psycopg, SQLAlchemy, node-postgres and pgjdbc are not %s; bring them with: make parts", dir)
	}
	for _, name := range []string{"python3", "node", "java"} {
		if _, err := exec.LookPath(name); err != nil {
			return "", fmt.Errorf("clients of PostgreSQL need %s, which is not on PATH; bring it with: make parts", name)
		}
	}
	return dir, nil
}

// fetchPostgresClients has pip, npm and Maven fetch what is pinned. They know the machine's proxies, mirrors and certificates, and
// are not trusted with what they bring.
func (p Parts) fetchPostgresClients(ctx context.Context) error {
	to, err := os.MkdirTemp(p.Dir, "postgres-clients-fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(to)
	own, err := fs.Sub(pins, "testdata/postgres-clients")
	if err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(to, "node"), own); err != nil {
		return err
	}
	p.say("clients: fetching psycopg, SQLAlchemy, Alembic, node-postgres and pgjdbc (about 10 MB)")
	for _, line := range [][]string{
		{
			"python3", "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
			"--no-compile", "--target", filepath.Join(to, "python"), "-r", filepath.Join(to, "node", "requirements.txt"),
		},
		{"npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix", filepath.Join(to, "node")},
		{"mvn", "--batch-mode", "--quiet", mavenCopy, "-Dartifact=" + pgjdbc, "-DoutputDirectory=" + to},
	} {
		cmd := exec.CommandContext(ctx, line[0], line[1:]...)
		cmd.Dir = to // no pom.xml, and no npmrc, of anybody else
		if err := p.runWithProgress(cmd, "clients: still fetching with "+line[0]); err != nil {
			return fmt.Errorf("fetch clients of PostgreSQL with %s (on Debian and Ubuntu: apt-get install python3-pip nodejs npm maven default-jdk-headless): %w", line[0], err)
		}
	}
	if err := checkSum(filepath.Join(to, pgjdbcFile), pgjdbcSHA256); err != nil {
		return err
	}
	return os.Rename(to, p.clientsDir())
}
