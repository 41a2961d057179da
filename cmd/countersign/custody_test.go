package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestWhatOthersCanChangeIsRefused: what the gateway keeps and what it believes is nobody else's to change. Where it is,
// neither serve nor a reload takes it, and check says the same: which path, its mode, and what mends it.
func TestWhatOthersCanChangeIsRefused(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll, story.Options{})
	g.Process.Stop()
	sockets, err := filepath.Glob(filepath.Join(g.Data(), "*.sock"))
	must(t, err)
	for _, socket := range sockets {
		must(t, os.Remove(socket))
	}
	must(t, os.Mkdir(filepath.Join(g.Dir, "open"), 0o700))
	must(t, os.WriteFile(filepath.Join(g.Dir, "open", "payments"), []byte("Bearer x\n"), 0o600))
	type change func(t *testing.T, dir string)
	mode := func(name string, mode os.FileMode) change {
		return func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, name), mode)) }
	}
	link := func(name, to string, openly os.FileMode) change {
		return func(t *testing.T, dir string) {
			mode("open", openly)(t, dir)
			from, to := filepath.Join(dir, name), filepath.Join(dir, to)
			if _, err := os.Lstat(to); err == nil {
				must(t, os.Remove(from))
			} else {
				must(t, os.Rename(from, to))
			}
			must(t, os.Symlink(to, from))
		}
	}
	as := func(key, value string) change {
		return func(t *testing.T, dir string) {
			text, err := os.ReadFile(filepath.Join(dir, "countersign.yaml"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "countersign.yaml"), []byte(strings.Replace(string(text), key, value, 1)), 0o600))
			mode("open", 0o777|os.ModeSticky)(t, dir)
		}
	}
	for _, c := range []struct {
		name   string
		change change
		want   []string // in which $ is the directory; nothing where it is accepted
	}{
		{"as it is", func(*testing.T, string) {}, nil},
		{"the data directory is anybody's", mode("var", 0o777), []string{"data: $/var has mode 0777", "chmod go-w $/var"}},
		{"the data directory is a group's", mode("var", 0o770), []string{"data: $/var has mode 0770"}},
		{"the data directory is anybody's to add to", mode("var", 0o777|os.ModeSticky), []string{"data: $/var has mode 0777"}},
		{"the data directory can be read", mode("var", 0o755), nil},
		{"the directory above is anybody's", mode("", 0o777), []string{"$ has mode 0777, so others can move what is below it"}},
		{"the journal is anybody's", mode("var/journal", 0o777), []string{"data: $/var/journal has mode 0777"}},
		{"the keys are anybody's", mode("var/keys", 0o777), []string{"data: $/var/keys has mode 0777"}},
		{"a key can be read", mode("var/keys/redact.key", 0o640), []string{"data: $/var/keys/redact.key has mode 0640", "chmod 600 $/var/keys/redact.key"}},
		{"a key can be written", mode("var/keys/evidence.key", 0o602), []string{"data: $/var/keys/evidence.key has mode 0602"}},
		{"the public key can be read", mode("var/keys/evidence.pub", 0o644), nil},
		{"the policies are anybody's", mode("policies", 0o777), []string{"policies: $/policies has mode 0777"}},
		{"the policies are anybody's to add to", mode("policies", 0o777|os.ModeSticky), []string{"policies: $/policies has mode 0777"}},
		{"a policy is anybody's", mode("policies/payments.rego", 0o666), []string{"policies: $/policies/payments.rego has mode 0666"}},
		{"the configuration is anybody's", mode("countersign.yaml", 0o646), []string{"$/countersign.yaml has mode 0646"}},
		{"the credential is anybody's", mode("secrets/payments", 0o622), []string{"resources[0].credential.value_file: $/secrets/payments has mode 0622"}},
		{"the credential can be moved", mode("secrets", 0o777), []string{"$/secrets has mode 0777, so others can move what is below it"}},
		{"the credential can be read", mode("secrets/payments", 0o644), nil},
		{"the credential is a link into what is anybody's", link("secrets/payments", "open/payments", 0o777), []string{"$/open has mode 0777"}},
		{"the credential is a link to where others may add and not move", link("secrets/payments", "open/payments", 0o777|os.ModeSticky), nil},
		{"the data directory is a link into what is anybody's", link("var", "open/var", 0o777), []string{"data: $/open has mode 0777"}},
		{"the socket is where others may put theirs", as("listen:\n", "listen:\n    envoy: unix:./open/envoy.sock\n"), []string{"listen.envoy: $/open has mode 0777"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(extproctest.Dir(t), "it")
			if out, err := exec.CommandContext(t.Context(), "cp", "-a", g.Dir, dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			c.change(t, dir)
			file := filepath.Join(dir, "countersign.yaml")
			out, code := runCommand(t, "check", "--config", file)
			if len(c.want) == 0 {
				if code != 0 {
					t.Errorf("check ends with %d and says %s", code, out)
				}
				return
			}
			started, refused := refusedStart(t, file)
			for _, want := range c.want {
				want = strings.ReplaceAll(want, "$", dir)
				if code == 0 || !strings.Contains(out, want) {
					t.Errorf("check ends with %d and says %s\nwant %s", code, out, want)
				}
				if !refused || !strings.Contains(started, want) {
					t.Errorf("serve was refused: %v, and says %s\nwant %s", refused, started, want)
				}
			}
		})
	}
}

// refusedStart runs serve, which ends by itself where it is refused.
func refusedStart(t *testing.T, file string) (out string, refused bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, extproctest.Build(t), "serve", "--config", file).CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	return string(text), ok && exit.ExitCode() == 1
}

// TestNothingIsOthersWhateverTheUmask: what a gateway and its Envoy make is nobody else's, also where the umask takes nothing away,
// so that they find it fit when they start again.
func TestNothingIsOthersWhateverTheUmask(t *testing.T) {
	t.Parallel()
	open := filepath.Join(extproctest.Dir(t), "open")
	must(t, os.WriteFile(open, []byte("#!/bin/sh\numask 000\nexec "+extproctest.Build(t)+" \"$@\"\n"), 0o700)) //nolint:gosec // it is to be run
	g := start(t, allowAll, story.Options{Binary: open})
	must(t, filepath.WalkDir(g.Data(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}))
	g.Process.Kill()
	g.Run()
}

// A reload does not take what others can change.
func TestReloadOfWhatOthersCanChange(t *testing.T) {
	t.Parallel()
	g := start(t, allowAll, story.Options{})
	must(t, os.Chmod(filepath.Join(g.Dir, "policies"), 0o777))
	g.Write("policies/payments.rego", "package rules.payments\n\nallow contains {\"id\": \"theirs\"}\n")
	g.AwaitRecord("a rejected configuration", func(r story.Record) bool {
		return r.Type == "config.rejected" && strings.Contains(fmt.Sprint(r.Body["problems"]), "has mode 0777")
	})
	if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
		t.Errorf("answer %d", a.Status)
	}
	g.AwaitRecord("a decision by the old policy", func(r story.Record) bool {
		return r.Type == "operation.decided" && fmt.Sprint(r.Body["rules"]) == "[all]"
	})
}
