package extproctest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPostgres(t *testing.T) {
	for name, bin := range map[string]string{"of the system": "", "18": Postgres18(t)} {
		t.Run(name, func(t *testing.T) {
			p := StartPostgres(t, PostgresConfig{Bin: bin, Authority: NewAuthority(t), SQL: "CREATE ROLE app LOGIN PASSWORD 'secret'; CREATE DATABASE orders OWNER app;"})
			if got := p.SQL("orders", "SELECT current_user, current_database(), current_setting('ssl');"); got != "postgres|orders|on" {
				t.Errorf("%q", got)
			}
			if got := p.SQL("orders", "SHOW server_version_num"); bin != "" && !strings.HasPrefix(got, "18") {
				t.Errorf("it is version %s", got)
			}
		})
	}
}

// A repository may lie where only root may come, and the server is then not root's.
func TestPostgresWhereOnlyRootMayCome(t *testing.T) {
	private := filepath.Join(Dir(t), "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(private, "postgres-18"), os.DirFS(filepath.Dir(Postgres18(t)))); err != nil {
		t.Fatal(err)
	}
	p := StartPostgres(t, PostgresConfig{Bin: filepath.Join(private, "postgres-18", "bin")})
	if got := p.SQL("postgres", "SELECT 1"); got != "1" {
		t.Errorf("%q", got)
	}
}

// An archive is unpacked without what it has for compilers, and never outside of where it should be.
func TestArchiveIsUnpackedInItsPlace(t *testing.T) {
	for name, c := range map[string]struct {
		members []tar.Header
		want    []string // nothing: it is refused
	}{
		"files and links": {
			[]tar.Header{
				{Name: "top/"},
				{Name: "top/bin/postgres", Mode: 0o755},
				{Name: "top/lib/libpq.so.5", Typeflag: tar.TypeSymlink, Linkname: "libpq.so.5.18"},
				{Name: "top/lib/libpq.so.5.18"},
				{Name: "top/lib/libpq.a"},
				{Name: "top/include/postgres.h"},
				{Name: "top/pipe", Typeflag: tar.TypeFifo},
			},
			[]string{"bin/postgres", "lib/libpq.so.5", "lib/libpq.so.5.18"},
		},
		"a name that leads out":             {[]tar.Header{{Name: "top/../../escaped"}}, nil},
		"a link that leads out, and a file": {[]tar.Header{{Name: "top/out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "top/out/escaped"}}, nil},
		"a file twice":                      {[]tar.Header{{Name: "top/a"}, {Name: "top/a"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			archive := filepath.Join(dir, "archive")
			if err := os.WriteFile(archive, archived(t, "before", c.members), 0o600); err != nil {
				t.Fatal(err)
			}
			to := filepath.Join(dir, "in", "to")
			if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil {
				t.Fatal(err)
			}
			err := unpackArchive(archive, int64(len("before")), to)
			if (err == nil) != (c.want != nil) {
				t.Errorf("the error is %v", err)
			}
			var got []string
			for _, pattern := range []string{"*", "*/*"} {
				found, _ := filepath.Glob(filepath.Join(to, pattern))
				for _, path := range found {
					if info, err := os.Lstat(path); err == nil && !info.IsDir() {
						relative, _ := filepath.Rel(to, path)
						got = append(got, relative)
					}
				}
			}
			if c.want != nil && !slices.Equal(got, c.want) {
				t.Errorf("it unpacked %q, want %q", got, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*scaped")); exists(filepath.Join(dir, "in", "escaped")) || len(left) > 0 {
				t.Error("it wrote outside")
			}
		})
	}
}

func archived(t *testing.T, before string, members []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString(before)
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range members {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
