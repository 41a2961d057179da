package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// runHere runs the program in this process and returns what it printed and its exit code.
func runHere(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	err := run(t.Context(), args, env{get: func(string) string { return "" }}, strings.NewReader(""), &b, &b)
	code = exitCode(err, &b)
	return b.String(), code
}

// recorded is a gateway that served a while and was stopped; its journal has several segments.
func recorded(t testing.TB) *story.Gateway {
	t.Helper()
	g := start(t, readOnly+"-- config.yaml --\nevidence: {segment: 4KiB, checkpoint: 100ms}\n", story.Options{})
	serveSome(t, g)
	g.Process.Stop()
	return g
}

func serveSome(t testing.TB, g *story.Gateway) {
	t.Helper()
	for range 6 {
		ask(t, g, "GET", "/v1/payments/7")
		ask(t, g, "DELETE", "/v1/payments/7")
	}
	g.Evidence(1)
}

// copied is a copy of a data directory, for damage.
type copied struct {
	t   testing.TB
	dir string
}

func copyOf(t testing.TB, dir string) *copied {
	t.Helper()
	to := t.TempDir()
	for _, part := range []string{"journal", "keys"} {
		if err := os.CopyFS(filepath.Join(to, part), os.DirFS(filepath.Join(dir, part))); err != nil {
			t.Fatal(err)
		}
	}
	if err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error { // os.CopyFS lets others read
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	}); err != nil {
		t.Fatal(err)
	}
	return &copied{t, to}
}

func (c *copied) segments() []string {
	names, err := filepath.Glob(filepath.Join(c.dir, "journal", "*.jsonl"))
	if err != nil || len(names) < 4 {
		c.t.Fatalf("segments %v, %v", names, err)
	}
	return names
}

func (c *copied) read(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

func (c *copied) write(path string, text []byte) {
	if err := os.WriteFile(path, text, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *copied) remove(path string) {
	if err := os.Remove(path); err != nil {
		c.t.Fatal(err)
	}
}

// lines changes the lines of segment i.
func (c *copied) lines(i int, change func([][]byte) [][]byte) {
	path := c.segments()[i]
	c.write(path, bytes.Join(change(bytes.SplitAfter(c.read(path), []byte("\n"))), nil))
}

// records are n lines of the journal, from record first on, whatever segments they stand in.
func (c *copied) records(first, n int) [][]byte {
	var all []byte
	for _, path := range c.segments() {
		all = append(all, c.read(path)...)
	}
	return bytes.SplitAfter(all, []byte("\n"))[first-1:][:n]
}

func (c *copied) checkpoints() string { return filepath.Join(c.dir, "journal", "checkpoints") }

// firstOf is the number of the first record of segment i.
func (c *copied) firstOf(i int) int {
	var n int
	if _, err := fmt.Sscanf(filepath.Base(c.segments()[i]), "%020d.jsonl", &n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// TestDamagedJournals damages copies of a real journal in every way that we know. Verifying each says FAIL, names the file
// and the first bad record where there is one, says why, and exits with 1. A gateway's start reads the end of a journal, what
// no checkpoint covers and what is open, so it refuses damage there, and goes on after damage further back.
func TestDamagedJournals(t *testing.T) {
	t.Parallel()
	g, other := recorded(t), &copied{t, recorded(t).Data()}
	for _, c := range []struct {
		name   string
		damage func(*copied) (record int) // 0 for none that must be named
		why    string
		starts bool
	}{
		{"the tail cut off within a line", func(c *copied) int {
			last := len(c.segments()) - 1
			path := c.segments()[last]
			text := c.read(path)
			c.write(path, text[:len(text)-10])
			return c.firstOf(last) + bytes.Count(text, []byte("\n")) - 1
		}, "records are missing at the end", false},
		{"the last lines cut off", func(c *copied) int {
			last := len(c.segments()) - 1
			if path := c.segments()[last]; bytes.Count(c.read(path), []byte("\n")) == 1 { // it begins where a batch did not fit
				c.remove(path)
				last--
			}
			c.lines(last, func(l [][]byte) [][]byte { return l[:1] })
			return c.firstOf(last) + 1
		}, "records are missing at the end", false},
		{"the middle cut out", func(c *copied) int {
			c.lines(1, func(l [][]byte) [][]byte { return l[:1] })
			return c.firstOf(1) + 1
		}, "a segment is missing", false},
		{"a line cut short in the middle", func(c *copied) int {
			c.lines(1, func(l [][]byte) [][]byte { l[1] = append(l[1][:20:20], '\n'); return l })
			return c.firstOf(1) + 1
		}, "not a record", true},
		{"two lines swapped", func(c *copied) int {
			c.lines(1, func(l [][]byte) [][]byte { l[0], l[1] = l[1], l[0]; return l })
			return c.firstOf(1)
		}, "is due", true},
		{"one letter edited: a deny becomes an allow", func(c *copied) (record int) {
			for i := range c.segments() {
				c.lines(i, func(l [][]byte) [][]byte {
					at := slices.IndexFunc(l, func(line []byte) bool { return bytes.Contains(line, []byte(`"effect":"deny"`)) })
					if record == 0 && at >= 0 && i > 0 {
						l[at] = bytes.Replace(l[at], []byte(`"effect":"deny"`), []byte(`"effect":"allow"`), 1)
						record = c.firstOf(i) + at
					}
					return l
				})
			}
			return record
		}, "not", true},
		{"a segment of another journal", func(c *copied) int {
			c.lines(1, func(l [][]byte) [][]byte { return other.records(c.firstOf(1), len(l)-1) })
			return c.firstOf(1)
		}, "", true},
		{"the end of another journal", func(c *copied) int {
			c.lines(0, func(l [][]byte) [][]byte { return append(l[:2:2], other.records(3, len(l)-3)...) })
			return 2
		}, "is not the record that record 3 was written after", true},
		{"the first segment deleted", func(c *copied) int { c.remove(c.segments()[0]); return 1 }, "a segment is missing", false},
		{"a middle segment deleted", func(c *copied) int {
			first := c.firstOf(2)
			c.remove(c.segments()[2])
			return first
		}, "a segment is missing", false},
		{"the last segment deleted", func(c *copied) int {
			last := len(c.segments()) - 1
			first := c.firstOf(last)
			c.remove(c.segments()[last])
			return first
		}, "records are missing at the end", false},
		{"the checkpoints deleted", func(c *copied) int { c.remove(c.checkpoints()); return 0 }, "the checkpoints are missing", false},
		{"the checkpoints emptied", func(c *copied) int { c.write(c.checkpoints(), nil); return 0 }, "there is no checkpoint", false},
		{"a checkpoint edited", func(c *copied) int {
			text := c.read(c.checkpoints())
			text[len(text)-20] ^= 1
			c.write(c.checkpoints(), text)
			return 0
		}, "the checkpoint is not good", false},
		{"the checkpoints of another journal", func(c *copied) int {
			c.write(c.checkpoints(), c.read(other.checkpoints()))
			return 0
		}, "the checkpoint is not good", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := copyOf(t, g.Data())
			record := c.damage(d)
			out, code := runHere(t, "evidence", "verify", "--data", d.dir)
			if code != 1 || !strings.HasPrefix(out, "FAIL: ") || !strings.Contains(out, c.why) {
				t.Errorf("exit %d, and should say %q:\n%s", code, c.why, out)
			}
			if record > 0 && !names(out, record) {
				t.Errorf("record %d is not named:\n%s", record, out)
			}
			if err := startOn(t, d.dir); (err == nil) != c.starts {
				t.Errorf("the start of a gateway on it: %v", err)
			}
		})
	}
}

// names reports whether a failure is told of that record, or of a range of records that it is in: a checkpoint covers many.
func names(out string, record int) bool {
	var from, to int
	if _, after, ok := strings.Cut(out, ": records "); ok {
		if _, err := fmt.Sscanf(after, "%d to %d are not those", &from, &to); err == nil && from <= record && record <= to {
			return true
		}
	}
	return strings.Contains(out, fmt.Sprintf(": record %d: ", record))
}

// startOn opens a journal as a gateway's start does.
func startOn(t testing.TB, data string) error {
	t.Helper()
	j, err := evidence.Open(t.Context(), evidence.Options{Dir: filepath.Join(data, "journal"), Node: "story"})
	if err != nil {
		return err
	}
	return j.Close()
}

// TestACopyVerifies: a copy somewhere else, an archive, and a journal of the first version verify.
func TestACopyVerifies(t *testing.T) {
	t.Parallel()
	g := recorded(t)
	d := copyOf(t, g.Data())
	pass := func(dir string, more ...string) {
		t.Helper()
		if out, code := runHere(t, append([]string{"evidence", "verify", "--data", dir}, more...)...); code != 0 || !strings.Contains(out, "PASS: ") {
			t.Errorf("%s: exit %d\n%s", dir, code, out)
		}
	}
	pass(d.dir)
	pass(d.dir, "--checkpoint", lastCheckpoint(t, d))
	key, code := runHere(t, "evidence", "key", "--data", g.Data())
	if code != 0 || !strings.HasPrefix(key, "countersign/story+") {
		t.Fatalf("exit %d: %s", code, key)
	}
	if err := os.RemoveAll(filepath.Join(d.dir, "keys")); err != nil {
		t.Fatal(err)
	}
	pass(d.dir, "--key", strings.TrimSpace(key))

	const v1 = "../../extproc/evidence/testdata/v1"
	pass(v1)
	pass(v1, "--checkpoint", filepath.Join(v1, "checkpoint"))
	if out, code := runHere(t, "evidence", "show", "--data", v1); code != 0 || strings.Count(out, "\n") != 10 {
		t.Errorf("show of version 1: exit %d\n%s", code, out)
	}
}

// lastCheckpoint is a file with the last checkpoint of d, as a collector has it.
func lastCheckpoint(t testing.TB, d *copied) string {
	t.Helper()
	lines := bytes.Split(bytes.TrimSpace(d.read(d.checkpoints())), []byte("\n"))
	var last struct{ Note string }
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(file, []byte(last.Note), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestRolledBackJournal puts an old copy of the whole data directory back. A gateway starts on it, because nothing in it
// can tell it from any other, and what it then writes is whole in itself; a checkpoint that the collector has from the time
// after the copy contradicts it, at the first record that cannot be what was signed.
func TestRolledBackJournal(t *testing.T) {
	t.Parallel()
	g := recorded(t)
	old := copyOf(t, g.Data())
	had := len(g.Records())
	g.Run()
	serveSome(t, g)
	g.Process.Stop()
	seen := lastCheckpoint(t, &copied{t, g.Data()})
	verify := func(more ...string) (string, int) {
		return runHere(t, append([]string{"evidence", "verify", "--data", g.Data()}, more...)...)
	}
	if out, code := verify("--checkpoint", seen); code != 0 {
		t.Fatalf("before: exit %d\n%s", code, out)
	}

	for _, part := range []string{"journal", "keys"} {
		if err := os.RemoveAll(filepath.Join(g.Data(), part)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(old.dir, part), filepath.Join(g.Data(), part)); err != nil {
			t.Fatal(err)
		}
	}
	if out, code := verify("--checkpoint", seen); code != 1 || !strings.Contains(out, fmt.Sprintf("record %d", had+1)) {
		t.Errorf("put back: exit %d, and record %d is the first that is missing\n%s", code, had+1, out)
	}
	g.Run()
	serveSome(t, g)
	serveSome(t, g)
	g.Process.Stop()
	if out, code := verify(); code != 0 {
		t.Errorf("in itself: exit %d\n%s", code, out)
	}
	if out, code := verify("--checkpoint", seen); code != 1 || !strings.Contains(out, "the checkpoint given") {
		t.Errorf("against the collector's checkpoint: exit %d\n%s", code, out)
	}
}

// TestSecondGatewayOnOneDataDirectory: the second one says who has it, and changes nothing.
func TestSecondGatewayOnOneDataDirectory(t *testing.T) {
	t.Parallel()
	g := start(t, readOnly, story.Options{})
	ask(t, g, "GET", "/v1/payments/7")
	out, code := runHere(t, "serve", "--config", g.Config)
	if code != 1 || !strings.Contains(out, g.Data()) || !strings.Contains(out, "is held by process") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("the first one answers %d", a.Status)
	}
	for _, command := range []string{"verify", "show"} { // these work beside it
		if out, code := runHere(t, "evidence", command, "--data", g.Data()); code != 0 {
			t.Errorf("%s: exit %d\n%s", command, code, out)
		}
	}
}

// TestLostKeys: the public key can be made again from the private one; the private one cannot, and a gateway says what to
// do; the old records verify without it.
func TestLostKeys(t *testing.T) {
	t.Parallel()
	g, other := recorded(t), recorded(t)
	key := func(d *copied, name string) string { return filepath.Join(d.dir, "keys", name) }
	for _, c := range []struct {
		name   string
		lose   func(*copied)
		verify string // what it says where it does not pass
		serve  string // what it says where it does not start
	}{
		{"the public key", func(d *copied) { d.remove(key(d, "evidence.pub")) }, "--key", ""},
		{"the private key", func(d *copied) { d.remove(key(d, "evidence.key")) }, "", "put the key back from a backup"},
		{"the digest key", func(d *copied) { d.remove(key(d, "digest.key")) }, "", "put the key back from a backup"},
		{"all keys", func(d *copied) { _ = os.RemoveAll(filepath.Join(d.dir, "keys")) }, "--key", "put the key back from a backup"},
		{"a public key of another gateway", func(d *copied) {
			d.write(key(d, "evidence.pub"), d.read(key(&copied{t, other.Data()}, "evidence.pub")))
		}, "the checkpoint is not good", "does not belong to evidence.key"},
		{"keys of another gateway", func(d *copied) {
			for _, name := range []string{"evidence.pub", "evidence.key"} {
				d.write(key(d, name), d.read(key(&copied{t, other.Data()}, name)))
			}
		}, "the checkpoint is not good", "checkpoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := copyOf(t, g.Data())
			c.lose(d)
			out, code := runHere(t, "evidence", "verify", "--data", d.dir)
			if (code == 0) != (c.verify == "") || !strings.Contains(out, c.verify) {
				t.Errorf("verify: exit %d, and should say %q\n%s", code, c.verify, out)
			}
			if c.serve == "" {
				return
			}
			if err := startOn(t, d.dir); err == nil || !strings.Contains(err.Error(), c.serve) {
				t.Errorf("a start should say %q: %v", c.serve, err)
			}
		})
	}
	if out, code := runHere(t, "evidence", "verify", "--data", g.Data(), "--key", strings.TrimSpace(string(copyOf(t, other.Data()).read(filepath.Join(other.Data(), "keys", "evidence.pub"))))); code != 1 || !strings.Contains(out, "the checkpoint is not good") {
		t.Errorf("verified with another gateway's key: exit %d\n%s", code, out)
	}
}
