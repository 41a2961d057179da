package policy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

const anyPolicy = "package rules.payments\n\nallow contains {\"id\": \"any\"}\n"

func TestDirectory(t *testing.T) {
	outside := write(t, map[string]string{"deny.rego": anyPolicy, "sub/deny.rego": anyPolicy})
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string) error
		want string // in the error; empty when it loads
	}{
		{"a link out of the directory", func(_ *testing.T, dir string) error {
			return os.Symlink(filepath.Join(outside, "deny.rego"), filepath.Join(dir, "deny.rego"))
		}, "escapes from parent"},
		{"a link to a directory outside", func(_ *testing.T, dir string) error {
			return os.Symlink(filepath.Join(outside, "sub"), filepath.Join(dir, "sub"))
		}, "escapes from parent"},
		{"a link to nothing", func(_ *testing.T, dir string) error { return os.Symlink("nothing", filepath.Join(dir, "deny.rego")) }, "no such file"},
		{"a link that leads back", func(_ *testing.T, dir string) error { return os.Symlink(".", filepath.Join(dir, "again")) }, "too many levels"},
		{"directories without end", func(_ *testing.T, dir string) error {
			return os.MkdirAll(filepath.Join(dir, strings.Repeat("d/", maxDirDepth+1)), 0o755)
		}, "directories deep"},
		{"a directory called like a policy", func(_ *testing.T, dir string) error { return os.Mkdir(filepath.Join(dir, "x.rego"), 0o755) }, ""},
		{"a file that is too large", func(_ *testing.T, dir string) error {
			return os.Truncate(filepath.Join(dir, "payments.rego"), maxFileBytes+1)
		}, "larger than 16 MiB"},
		{"a mounted ConfigMap", func(_ *testing.T, dir string) error {
			if err := os.Mkdir(filepath.Join(dir, "..2026"), 0o755); err != nil {
				return err
			}
			if err := os.Rename(filepath.Join(dir, "payments.rego"), filepath.Join(dir, "..2026", "payments.rego")); err != nil {
				return err
			}
			if err := os.Symlink("..2026", filepath.Join(dir, "..data")); err != nil {
				return err
			}
			return os.Symlink("..data/payments.rego", filepath.Join(dir, "payments.rego"))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, rego(anyPolicy))
			if err := c.make(t, dir); err != nil {
				t.Fatal(err)
			}
			_, err := Load(t.Context(), Options{Path: dir, Kinds: httpKinds, Packages: of("payments")})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v; want %q", err, c.want)
			}
		})
	}
	if _, err := Load(t.Context(), Options{Path: filepath.Join(outside, "nowhere")}); err == nil {
		t.Error("a directory that is not there was loaded")
	}
}

// entry is one entry of a bundle's archive.
type entry struct {
	name, text string
	kind       byte
}

// pack writes a bundle as `opa build` does.
func pack(t *testing.T, entries ...entry) string {
	t.Helper()
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	archive := tar.NewWriter(packed)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o644, Size: int64(len(e.text))}
		if e.kind != tar.TypeReg {
			header.Size, header.Linkname = 0, e.text
		}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if header.Size > 0 {
			if _, err := archive.Write([]byte(e.text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := packed.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestBundle(t *testing.T) {
	policy := entry{name: "/rules/payments.rego", text: "package rules.payments\n\nallow contains {\"id\": \"any\"} if data.limits.amount == 10\n"}
	data := entry{name: "/data.json", text: `{"limits": {"amount": 10}}`}
	manifest := entry{name: "/.manifest", text: `{"revision": "7", "roots": ["rules", "limits"], "rego_version": 1}`}
	for _, c := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"as opa build makes it", []entry{data, policy, manifest}, ""},
		{"without a manifest", []entry{data, policy}, ""},
		{"files that are neither rules nor data", []entry{data, policy, {name: "/notes.yaml", text: "limits: 3"}}, ""},
		{"a policy outside of the roots", []entry{data, policy, {name: "/.manifest", text: `{"roots": ["limits"]}`}}, "outside the roots"},
		{"data outside of the roots", []entry{data, policy, {name: "/.manifest", text: `{"roots": ["rules"]}`}}, "data.limits.amount is outside the roots"},
		{"Rego version 0", []entry{data, policy, {name: "/.manifest", text: `{"rego_version": 0}`}}, "only version 1 is read"},
		{"a file of Rego version 0", []entry{data, policy, {name: "/.manifest", text: `{"file_rego_versions": {"/rules/payments.rego": 0}}`}}, "only version 1 is read"},
		{"a signature that nobody checks", []entry{data, policy, {name: "/.signatures.json", text: `{"signatures": []}`}}, "the bundle is signed"},
		{"compiled rules", []entry{data, policy, {name: "/policy.wasm", text: "x"}}, "WebAssembly"},
		{"a patch", []entry{data, policy, {name: "/patch.json", text: `{"data": []}`}}, "delta bundles"},
		{"a file twice", []entry{policy, data, {name: "data.json", text: `{"limits": {"amount": 11}}`}}, "is in it twice"},
		{"a link", []entry{policy, data, {name: "/x.rego", text: "/etc/hosts", kind: tar.TypeSymlink}}, "a link or a special file"},
		{"a name that leads out", []entry{data, {name: "/../../rules/payments.rego", text: policy.text}}, ""},
		{"a file that is too large", []entry{policy, data, {name: "/large.rego", text: strings.Repeat("#\n", maxFileBytes)}}, "larger than 16 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Load(t.Context(), Options{Path: pack(t, c.entries...), Kinds: httpKinds, Packages: of("payments")})
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v; want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if v, err := s.Evaluate(t.Context(), operation("payments", get("v1"))); err != nil || v.Effect != gate.Allow {
				t.Errorf("verdict %+v, error %v", v, err)
			}
		})
	}
	t.Run("unpacked", func(t *testing.T) {
		dir := write(t, map[string]string{"rules/payments.rego": policy.text, "data.json": data.text, ".manifest": manifest.text, "other.json": "{"})
		if _, err := Load(t.Context(), Options{Path: dir, Kinds: httpKinds, Packages: of("payments")}); err != nil {
			t.Error(err)
		}
	})
	t.Run("not an archive", func(t *testing.T) {
		name := filepath.Join(write(t, map[string]string{"bundle.tar.gz": "not packed"}), "bundle.tar.gz")
		if _, err := Load(t.Context(), Options{Path: name}); err == nil || !strings.Contains(err.Error(), "neither a directory nor a bundle") {
			t.Errorf("error %v", err)
		}
	})
}
