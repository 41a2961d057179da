package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval/embedded"
)

// planted is what a hostile copy of a data directory has in the place of a file.
var planted = []struct {
	name  string
	plant func(t *testing.T, path, secret string)
	says  string
}{
	{"a named pipe", func(t *testing.T, path, _ string) { must(t, syscall.Mkfifo(path, 0o600)) }, "is a named pipe, and not a file"},
	{"a socket", func(t *testing.T, path, _ string) {
		must(t, syscall.Mknod(path, syscall.S_IFSOCK|0o600, 0))
	}, "is a socket, and not a file"},
	{"a directory", func(t *testing.T, path, _ string) { must(t, os.Mkdir(path, 0o700)) }, "is a directory, and not a file"},
	{"a link to a file of elsewhere", func(t *testing.T, path, secret string) { must(t, os.Symlink(secret, path)) }, "is a symbolic link, and not a file"},
	{"a link to a file beside it", func(t *testing.T, path, _ string) {
		must(t, os.Symlink("../keys/digest.key", path))
	}, "is a symbolic link, and not a file"},
	{"a link to itself", func(t *testing.T, path, _ string) { must(t, os.Symlink(filepath.Base(path), path)) }, "is a symbolic link, and not a file"},
	{"a link to a device", func(t *testing.T, path, _ string) { must(t, os.Symlink("/dev/zero", path)) }, "is a symbolic link, and not a file"},
}

// runBounded runs a command and fails the test where it does not end.
func runBounded(t *testing.T, ctx context.Context, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	done := make(chan int, 1)
	go func() {
		err := run(ctx, args, env{get: func(string) string { return "" }}, strings.NewReader(""), &b, &b)
		done <- exitCode(err, &b)
	}()
	select {
	case code = <-done:
		return b.String(), code
	case <-time.After(30 * time.Second):
		t.Fatalf("%v does not end", args)
		return "", 0
	}
}

// TestHostileCopies: whatever a data directory holds in the place of its files, each command ends, says which file is not one,
// and neither prints nor exports what is elsewhere.
func TestHostileCopies(t *testing.T) {
	t.Parallel()
	g := recorded(t)
	config, err := os.ReadFile(g.Config)
	must(t, err)
	secret := filepath.Join(t.TempDir(), "shadow")
	const secrets = "root-secret-of-elsewhere"
	must(t, os.WriteFile(secret, []byte(secrets+"\n"), 0o600))

	commands := map[string][]string{
		"verify":        {"evidence", "verify"},
		"show":          {"evidence", "show"},
		"show --json":   {"evidence", "show", "--json"},
		"show --follow": {"evidence", "show", "--follow"},
		"key":           {"evidence", "key"},
		"export":        {"evidence", "export", "--to"},
		"serve":         {"serve"},
	}
	for _, place := range []struct {
		name string
		path func(c *copied) string
		read []string // the commands that read it
	}{
		{"the first segment", func(c *copied) string { return c.segments()[0] }, []string{"verify", "show", "show --json", "show --follow", "export", "serve"}},
		{"the last segment", func(c *copied) string { s := c.segments(); return s[len(s)-1] }, []string{"verify", "show", "show --json", "show --follow", "export", "serve"}},
		{"one segment more", func(c *copied) string { return filepath.Join(c.dir, "journal", "00000000000000009999.jsonl") }, []string{"verify", "show", "show --json", "show --follow", "export", "serve"}},
		{"the checkpoints", func(c *copied) string { return c.checkpoints() }, []string{"verify", "export", "serve"}},
		{"the public key", func(c *copied) string { return filepath.Join(c.dir, "keys", "evidence.pub") }, []string{"verify", "key", "export", "serve"}},
		{"the private key", func(c *copied) string { return filepath.Join(c.dir, "keys", "evidence.key") }, []string{"serve"}},
		{"the digest key", func(c *copied) string { return filepath.Join(c.dir, "keys", "digest.key") }, []string{"serve"}},
		{"the lock", func(c *copied) string { return filepath.Join(c.dir, "lock") }, []string{"serve"}},
		{"the journal", func(c *copied) string { return filepath.Join(c.dir, "journal") }, []string{"verify", "show", "show --json", "show --follow", "export", "serve"}},
		{"the keys", func(c *copied) string { return filepath.Join(c.dir, "keys") }, []string{"verify", "key", "export", "serve"}},
	} {
		for _, what := range planted {
			isDirectory := place.name == "the journal" || place.name == "the keys"
			if isDirectory && what.name == "a directory" {
				continue
			}
			t.Run(place.name+" is "+what.name, func(t *testing.T) {
				t.Parallel()
				for _, name := range place.read {
					c := copyInto(t, g.Data(), config)
					path := place.path(c)
					must(t, os.RemoveAll(path))
					what.plant(t, path, secret)
					args := slices.Clone(commands[name])
					archive := filepath.Join(t.TempDir(), "archive.tar.gz")
					switch name {
					case "export":
						args = append(args, archive, "--data", c.dir)
					case "serve":
						args = append(args, "--config", filepath.Join(filepath.Dir(c.dir), "countersign.yaml"))
					default:
						args = append(args, "--data", c.dir)
					}
					says := what.says
					if isDirectory {
						says = strings.Replace(says, "not a file", "not a directory", 1)
					}
					out, code := runBounded(t, t.Context(), args...)
					said := strings.Contains(out, filepath.Base(path)+" "+says)
					if name == "serve" && (isDirectory || strings.Contains(says, "link")) {
						said = said || strings.Contains(out, path)
					}
					if code != 1 || !said {
						t.Errorf("%s: exit %d, and should say %q\n%s", name, code, says, out)
					}
					if strings.Contains(out, secrets) {
						t.Errorf("%s printed what is elsewhere:\n%s", name, out)
					}
					if _, err := os.Lstat(archive); err == nil {
						t.Errorf("%s left a part of an archive", name)
					}
				}
			})
		}
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != secrets+"\n" {
		t.Errorf("the file of elsewhere has %q now, %v", text, err)
	}
}

// copyInto is a copy of a data directory beside a configuration that names it.
func copyInto(t *testing.T, data string, config []byte) *copied {
	t.Helper()
	c := copyOf(t, data)
	dir := t.TempDir()
	must(t, os.Rename(c.dir, filepath.Join(dir, "var")))
	must(t, os.WriteFile(filepath.Join(dir, "countersign.yaml"), config, 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "secrets"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "secrets", "payments"), []byte("x"), 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "policies"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "policies", "payments.rego"), []byte("package rules.payments\n\nallow contains {\"id\": \"a\"} if input.http.method == \"GET\"\n"), 0o600))
	return &copied{t, filepath.Join(dir, "var")}
}

// TestHardLinksAreNotExported: a file that has another name may be a file of elsewhere, and no archive has it.
func TestHardLinksAreNotExported(t *testing.T) {
	t.Parallel()
	g := recorded(t)
	for _, name := range []string{"journal/checkpoints", "keys/evidence.pub", "journal/00000000000000000001.jsonl"} {
		c := copyOf(t, g.Data())
		must(t, os.Link(filepath.Join(c.dir, name), filepath.Join(t.TempDir(), "other")))
		archive := filepath.Join(t.TempDir(), "archive.tar.gz")
		out, code := runBounded(t, t.Context(), "evidence", "export", "--data", c.dir, "--to", archive)
		if code != 1 || !strings.Contains(out, name) || !strings.Contains(out, "hard links") {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		}
		if _, err := os.Lstat(archive); err == nil {
			t.Errorf("%s: there is an archive", name)
		}
		if out, code := runBounded(t, t.Context(), "evidence", "verify", "--data", c.dir); code != 0 { // backups are kept like that
			t.Errorf("%s: verify: exit %d\n%s", name, code, out)
		}
	}
}

// TestCommandsEndWhenTheyAreTold: a journal of no end, here a hole of 64 GiB that reads as one line, holds up no command.
func TestCommandsEndWhenTheyAreTold(t *testing.T) {
	t.Parallel()
	g := recorded(t)
	c := copyOf(t, g.Data())
	last := c.segments()[len(c.segments())-1]
	must(t, os.Truncate(last, 4<<40)) // what reads all of that does not end
	must(t, os.Remove(filepath.Join(c.dir, "journal", "resume.json")))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{
		{"evidence", "verify"},
		{"evidence", "show"},
		{"evidence", "show", "--follow"},
		{"evidence", "show", "--type", "none.such"},
		{"evidence", "export", "--to", filepath.Join(t.TempDir(), "archive.tar.gz")},
	} {
		runBounded(t, ended, append(args, "--data", c.dir)...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	for _, args := range [][]string{{"evidence", "verify"}, {"evidence", "show"}} {
		if out, code := runBounded(t, ctx, append(args, "--data", c.dir)...); code != 1 || !strings.Contains(out, "bytes") {
			t.Errorf("%v: exit %d\n%s", args, code, out)
		}
	}
}

// TestHostileApprovalsFile: what is no file is not opened as the approvals file, nor as a log of an older version.
func TestHostileApprovalsFile(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("text"), 0o600))
	for _, name := range []string{"approvals.db", "approvals.db-log0", "approvals.db-log1"} {
		for _, what := range planted {
			dir := t.TempDir()
			path := filepath.Join(dir, name)
			what.plant(t, path, secret)
			store, err := embedded.Open(filepath.Join(dir, "approvals.db"), embedded.Options{})
			if err == nil {
				_ = store.Close()
			}
			if err == nil || !strings.Contains(err.Error(), path+" "+what.says) {
				t.Errorf("%s is %s: %v", name, what.name, err)
			}
		}
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "text" {
		t.Errorf("the file of elsewhere has %q now, %v", text, err)
	}
}
