package extproctest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a PATH with nothing on it but these scripts. Each has the directory as $D.
func machine(t *testing.T, scripts map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range scripts {
		text = "#!/bin/sh\nD=" + dir + "\n" + text + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	env, err := os.Readlink("/usr/bin/env")
	if err != nil {
		env = "/usr/bin/env"
	}
	if err := os.Symlink(env, filepath.Join(dir, "env")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return dir
}

const (
	aptGet = `echo "$@" >>$D/apt.log; case "$*" in *chromium*) printf '#!/bin/sh\n' >$D/chromium; /bin/chmod 700 $D/chromium;; esac`
	sudo   = `shift; exec "$@"`
)

func TestInstallBringsWhatIsMissing(t *testing.T) {
	dir := machine(t, map[string]string{"apt-get": aptGet, "sudo": sudo, "go": "echo 0"})
	said := &strings.Builder{}
	p := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }, Progress: said}
	if err := p.Install(t.Context(), "chromium", "compiler"); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "apt.log"))
	if err != nil || !strings.Contains(string(log), " update\n") || !strings.Contains(string(log), "chromium gcc libc6-dev\n") {
		t.Errorf("apt-get ran with %q, %v", log, err)
	}
	if err := os.Remove(filepath.Join(dir, "apt.log")); err != nil {
		t.Fatal(err)
	}
	if err := p.Install(t.Context(), "chromium"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "apt.log")); !os.IsNotExist(err) {
		t.Errorf("what is there was installed again: %v", err)
	}
}

func TestInstallSaysInOneLineWhatToRun(t *testing.T) {
	for name, scripts := range map[string]map[string]string{
		"no apt-get":                        {"go": "echo 0"},
		"apt-get that fails":                {"go": "echo 0", "apt-get": "exit 100", "sudo": sudo},
		"apt-get that brings nothing":       {"go": "echo 0", "apt-get": "exit 0", "sudo": sudo},
		"sudo that asks for a password":     {"go": "echo 0", "sudo": "exit 1", "apt-get": "exit 100"},
		"a machine with neither, and no go": {},
	} {
		t.Run(name, func(t *testing.T) {
			machine(t, scripts)
			p := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }, Progress: &strings.Builder{}}
			err := p.Install(t.Context(), "chromium", "compiler", "pip")
			if err == nil || !strings.Contains(err.Error(), "chromium") {
				t.Fatalf("the error is %v", err)
			}
			line, _, _ := strings.Cut(err.Error(), "\n")
			if name != "apt-get that brings nothing" && !strings.HasSuffix(line, "sudo apt-get install -y --no-install-recommends chromium python3-pip gcc libc6-dev") {
				t.Errorf("it says to run %q", line)
			}
		})
	}
}

// Tests run without the race detector where there is no compiler, and say so.
func TestInstallGoesOnWithoutACompiler(t *testing.T) {
	machine(t, map[string]string{"go": "echo 0"})
	said := &strings.Builder{}
	p := Parts{Dir: t.TempDir(), Getenv: func(string) string { return "" }, Progress: said}
	if err := p.Install(t.Context(), "compiler"); err != nil || !strings.Contains(said.String(), "going on without gcc") {
		t.Errorf("%v, %q", err, said)
	}
}
