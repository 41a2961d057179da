package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// readAll allows reading, and redacts nothing.
const readAll = `
-- policy.rego --
package rules.payments

allow contains {"id": "read"} if input.http.method == "GET"
`

// askWith sends a GET with a token.
func askWith(t *testing.T, g *story.Gateway, token, target string) (*story.Answer, error) {
	t.Helper()
	return g.Send(t.Context(), &story.Request{Method: "GET", Target: target, Fields: []extproctest.Field{{Name: "Authorization", Value: "Bearer " + token}}})
}

// TestKillsUnderLoad crashes the gateway again and again while agents ask. Every request gets an answer or a broken
// connection; nothing that the target saw is missing from the journal; each cut-off operation is told of.
func TestKillsUnderLoad(t *testing.T) {
	t.Parallel()
	killsUnderLoad(t, 3)
}

func killsUnderLoad(t *testing.T, kills int) {
	t.Helper()
	g := start(t, readAll, story.Options{})
	l := startLoad(t, g, "kill", 4)
	for range kills {
		l.reach(404, 20)
		g.Process.Kill()
		g.Run()
	}
	l.reach(404, 20)
	answers := l.end()
	byTarget := map[string]*operation{}
	unknown := 0
	for _, o := range reconcile(t, g) {
		byTarget[o.target] = o
		if o.ended == "unknown" {
			unknown++
		}
	}
	for path, code := range answers {
		if o := byTarget[path]; code == 404 && (o == nil || o.effect != "allow") {
			t.Errorf("%s was answered by the target, and the journal says %+v", path, o)
		}
		if code != 404 && code != 502 && code != 503 && code != 0 { // 502: the target may have acted
			t.Errorf("%s was answered %d", path, code)
		}
	}
	t.Logf("%d requests, %d outcomes unknown, answers %v", len(answers), unknown, l.done())
}

// TestEnvoyIsKilled kills the Envoy that the gateway supervises while a target holds its answer: the agent's connection
// breaks, the operation ends, the alarm is recorded, and Envoy is started again.
func TestEnvoyIsKilled(t *testing.T) {
	t.Parallel()
	for _, attach := range []string{"ext_proc", "ext_authz"} {
		t.Run(attach, func(t *testing.T) {
			t.Parallel()
			envoyIsKilled(t, attach)
		})
	}
}

func envoyIsKilled(t *testing.T, attach string) {
	t.Helper()
	g := start(t, readAll, story.Options{Attach: attach})
	broken := make(chan error, 1)
	go func() {
		_, err := tryAsk(t, g, "GET", "/hold/x")
		broken <- err
	}()
	held := g.AwaitRecord("the decision", func(r story.Record) bool { return r.Type == "operation.decided" })
	if _, err := g.Target.WaitRequests(t.Context(), func(s []extproctest.Seen) bool { return len(s) == 1 }); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(envoyOf(t, g), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-broken; err == nil {
		t.Error("the agent got an answer through an Envoy that was killed")
	}
	g.AwaitRecord("the alarm", func(r story.Record) bool { return r.Type == "alarm" && r.Body["kind"] == "envoy_ended" })
	extproctest.Await(t, "Envoy's return", 30*time.Second, func(context.Context) error {
		a, err := tryAsk(t, g, "GET", "/v1/payments/7")
		if err == nil && a.Status != 200 {
			err = fmt.Errorf("status %d", a.Status)
		}
		return err
	})
	if o := reconcile(t, g)[held.Op]; o.ended != "unknown" && o.ended != "finished client_gone" {
		t.Errorf("the operation that was held has ended as %q", o.ended)
	}
	if a := ask(t, g, "DELETE", "/v1/payments/7"); a.Status != 403 {
		t.Errorf("through the new Envoy: %d", a.Status)
	}
}

// envoyOf is the process id of the Envoy that the gateway started last.
func envoyOf(t *testing.T, g *story.Gateway) int {
	t.Helper()
	found := regexp.MustCompile(`"Envoy started" .*pid=(\d+)`).FindAllStringSubmatch(g.Process.Log(), -1)
	if len(found) == 0 {
		t.Fatalf("the log names no Envoy:\n%s", g.Process.Log())
	}
	pid, err := strconv.Atoi(found[len(found)-1][1])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestEnvoyIsThereFirst runs Envoys that are not the gateway's children, from the two files that it prints for them. Until
// the gateway is there everything is refused, or nothing is served at all; it may come, crash and come back at any time.
func TestEnvoyIsThereFirst(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"static", "bootstrap"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			g := start(t, readAll, story.Options{})
			g.Process.Stop()
			text, code := runCommand(t, "envoy", kind, "--config", g.Config)
			if code != 0 {
				t.Fatalf("envoy %s: exit %d\n%s", kind, code, text)
			}
			// Without xDS Envoy is ready at once; with it, when it gives up waiting for the gateway.
			envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: text, Dir: g.Dir})
			refusedMeanwhile(t, g, kind == "static")
			for range 2 {
				g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.Config, Admin: g.Admin})
				extproctest.Await(t, "an answer", 60*time.Second, func(context.Context) error {
					a, err := tryAsk(t, g, "GET", "/v1/payments/7")
					if err == nil && a.Status != 200 {
						err = fmt.Errorf("status %d\n%s", a.Status, a.Body)
					}
					return err
				})
				seen := len(g.Target.Requests())
				g.Process.Kill()
				g.Target.Reset()
				refusedMeanwhile(t, g, true)
				if seen == 0 {
					t.Error("the target saw nothing of what was allowed")
				}
			}
			g.Process = extproctest.StartCountersign(t, extproctest.Countersign{Config: g.Config, Admin: g.Admin})
			reconcile(t, g)
			envoy.Stop()
		})
	}
}

// refusedMeanwhile asks while no gateway is there.
func refusedMeanwhile(t *testing.T, g *story.Gateway, listens bool) {
	t.Helper()
	for _, method := range []string{"GET", "DELETE", "HEAD"} {
		a, err := tryAsk(t, g, method, "/v1/payments/7")
		switch {
		case !listens && err == nil:
			t.Errorf("%s: answer %d from an Envoy that knows of nothing yet", method, a.Status)
		case listens && err != nil:
			t.Errorf("%s: %v", method, err)
		case listens && (a.Status != 503 || method != "HEAD" && a.Problem() != "unavailable"):
			t.Errorf("%s: %d %s\n%s", method, a.Status, a.Problem(), a.Body)
		}
	}
	if n := g.Target.BytesIn(); n != 0 {
		t.Errorf("the target got %d bytes", n)
	}
}

// TestReloadOfWhatIsBroken breaks and takes away what a reload reads. Each time the old state stays in force, the record
// says what is wrong, and the next good state is taken.
func TestReloadOfWhatIsBroken(t *testing.T) {
	t.Parallel()
	g := start(t, readAll+"-- limits.json --\n{\"limits\": {\"max\": 7}}\n", story.Options{})
	conf, err := os.ReadFile(g.Config)
	must(t, err)
	rego, err := os.ReadFile(filepath.Join(g.Dir, "policies", "payments.rego"))
	must(t, err)
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, g *story.Gateway)
		says   string
	}{
		{"a data file that is not JSON", func(_ *testing.T, g *story.Gateway) { g.Write("policies/limits.json", `{"limits": {"max": `) }, "limits.json"},
		{"a data file with a name twice", func(_ *testing.T, g *story.Gateway) {
			g.Write("policies/limits.json", `{"limits": {"max": 7, "max": 1}}`)
		}, "limits.json"},
		{"a policy of another package", func(_ *testing.T, g *story.Gateway) {
			g.Write("policies/payments.rego", "package rules.others\n\nallow contains {\"id\": \"all\"}\n")
		}, "payments"},
		{"no policies", func(t *testing.T, g *story.Gateway) { must(t, os.RemoveAll(filepath.Join(g.Dir, "policies"))) }, "policies"},
		{"no configuration", func(t *testing.T, g *story.Gateway) { must(t, os.Remove(g.Config)) }, "countersign.yaml"},
		{"a directory for a configuration", func(t *testing.T, g *story.Gateway) {
			must(t, os.Remove(g.Config))
			must(t, os.Mkdir(g.Config, 0o700))
		}, "countersign.yaml"},
		{"an empty configuration", func(_ *testing.T, g *story.Gateway) { g.Write("countersign.yaml", "") }, "countersign.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := len(g.Records())
			c.damage(t, g)
			g.Process.Signal(syscall.SIGHUP)
			rejected := g.AwaitRecord("config.rejected", func(r story.Record) bool {
				return r.Type == "config.rejected" && r.Seq > uint64(last) && strings.Contains(fmt.Sprint(r.Body["problems"]), c.says)
			})
			for method, want := range map[string]int{"GET": 200, "DELETE": 403} {
				if a := ask(t, g, method, "/v1/payments/7"); a.Status != want {
					t.Errorf("%s with what is broken beside it: %d", method, a.Status)
				}
			}
			must(t, os.RemoveAll(filepath.Join(g.Dir, "policies")))
			must(t, os.RemoveAll(g.Config))
			g.Write("policies/limits.json", `{"limits": {"max": 7}}`)
			g.Write("policies/payments.rego", fmt.Sprintf("# mended after: %s\n%s", c.name, rego))
			g.Write("countersign.yaml", string(conf))
			g.Process.Signal(syscall.SIGHUP)
			g.AwaitRecord("the mended policy", func(r story.Record) bool { return r.Type == "policy.activated" && r.Seq > rejected.Seq })
			if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
				t.Errorf("with the mended policy: %d", a.Status)
			}
		})
	}
	reconcile(t, g)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestIssuerRotates follows an issuer through new keys, unknown ones and an outage. Old tokens work while their key is
// published, new ones as soon as it can be fetched, and nobody can make the gateway hammer the issuer.
func TestIssuerRotates(t *testing.T) {
	t.Parallel()
	g := start(t, readAll, story.Options{})
	status := func(token string) int {
		t.Helper()
		a, err := askWith(t, g, token, "/v1/payments/7")
		if err != nil {
			t.Fatal(err)
		}
		return a.Status
	}
	soon := func(what, token string, want int) {
		t.Helper()
		extproctest.Await(t, what, 40*time.Second, func(context.Context) error {
			if got := status(token); got != want {
				return fmt.Errorf("status %d", got)
			}
			return nil
		})
	}
	first := g.Issuer.Token(nil)
	if got := status(first); got != 200 {
		t.Fatalf("before anything: %d", got)
	}
	g.Issuer.Rotate()
	second := g.Issuer.Token(nil)
	soon("the second key", second, 200)
	if got := status(first); got != 200 {
		t.Errorf("a token of the old key, which is still published: %d", got)
	}
	before := g.Issuer.Fetches()["/keys"]
	var all sync.WaitGroup
	for n := range 60 {
		all.Go(func() {
			if got := status(g.Issuer.Mint(extproctest.Mint{KeyID: fmt.Sprint("unknown-", n)})); got != 401 {
				t.Errorf("a key that nobody published: %d", got)
			}
		})
	}
	all.Wait()
	if n := g.Issuer.Fetches()["/keys"] - before; n > 2 {
		t.Errorf("60 tokens with unknown keys made %d fetches", n)
	}
	g.Issuer.Rotate()
	g.Issuer.Retire()
	third := g.Issuer.Token(nil)
	soon("the third key", third, 200)
	for _, old := range []string{first, second} {
		if got := status(old); got != 401 {
			t.Errorf("a token of a key that is no longer published: %d", got)
		}
	}
	g.Issuer.Stop()
	for name, token := range map[string]string{"a token that was seen": third, "a token that was not": g.Issuer.Token(extproctest.Claims{"jti": "fresh"})} {
		if got := status(token); got != 200 {
			t.Errorf("%s, while the issuer is down: %d", name, got)
		}
	}
	reconcile(t, g)
}

// TestDiskFillsUp takes the room from the journal while agents ask, and gives it back: a small file system of its own,
// where mounting one is allowed, and a bound on the size of files where it is not.
func TestDiskFillsUp(t *testing.T) {
	t.Parallel()
	g := start(t, readAll, story.Options{})
	fill, free := bounded(t, g)
	l := startLoad(t, g, "full", 4)
	l.reach(404, 20)
	fill()
	l.reach(503, 50)
	extproctest.Await(t, "the disk is full to its last byte", 30*time.Second, func(context.Context) error { // a record may fit in what is left of a page
		if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 503 || a.Problem() != "unavailable" || a.Header.Get("Retry-After") == "" {
			return fmt.Errorf("while the disk is full: %d %s %v", a.Status, a.Problem(), a.Header)
		}
		if code, text := get(t, "http://"+g.Admin+"/readyz"); code != 503 || strings.Contains(text, "journal: ok") {
			return fmt.Errorf("readyz: %d\n%s", code, text)
		}
		return nil
	})
	free()
	l.reach(404, 20)
	answers := l.end()
	g.AwaitRecord("the alarm", func(r story.Record) bool { return r.Type == "alarm" && r.Body["kind"] == "journal_refused" })
	reconcile(t, g)
	reached := map[string]bool{}
	for _, s := range g.Target.Requests() {
		reached[s.Path] = true
	}
	for path, code := range answers {
		if code != 404 && code != 503 || reached[path] != (code == 404) {
			t.Errorf("%s was answered %d, and the target saw it: %t", path, code, reached[path])
		}
	}
}

// bounded runs the gateway again on a disk that can be filled and freed.
func bounded(t *testing.T, g *story.Gateway) (fill, free func()) {
	t.Helper()
	g.Process.Stop()
	const mounted = `set -e; mkdir -p small; mount -t tmpfs -o size=8m tmpfs small; cp -a var/. small/; mount --move small var; `
	unshare := []string{"--mount"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--map-root-user")
	}
	run := fmt.Sprintf("exec %q serve --config %q --envoy", extproctest.Build(t), g.Config)
	command := extproctest.Command{Name: "countersign", Path: "unshare", Args: append(unshare, "/bin/sh", "-c", mounted+run), Dir: g.Dir}
	path, err := exec.LookPath("unshare")
	if err == nil {
		command.Path = path
		err = exec.Command(path, append(unshare, "/bin/sh", "-c", "mount -t tmpfs tmpfs /mnt")...).Run()
	}
	if err != nil {
		t.Logf("no file system can be mounted (%v): the room is bounded by RLIMIT_FSIZE", err)
		command.Path, command.Args = "/bin/bash", []string{"-c", "trap '' XFSZ; " + run}
	}
	g.Process = extproctest.Start(t, command)
	extproctest.Await(t, "readiness", 60*time.Second, func(context.Context) error {
		if code, text := statusOf("http://" + g.Admin + "/readyz"); code != 200 {
			return errors.New(text)
		}
		return nil
	})
	if err != nil {
		limit := func(bytes string) {
			if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(g.Process.PID()), "--fsize="+bytes+":").CombinedOutput(); err != nil {
				t.Fatalf("prlimit: %v\n%s", err, out)
			}
		}
		return func() { limit(fmt.Sprint(journalSize(t, g) + 4096)) }, func() { limit("unlimited") }
	}
	g.Dir = filepath.Join("/proc", strconv.Itoa(g.Process.PID()), "root", g.Dir) // the file system is the process's own
	ballast := filepath.Join(g.Data(), "ballast")
	fill = func() {
		f, err := os.Create(ballast)
		must(t, err)
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 64<<10))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("fill the disk: %v", err)
		}
	}
	return fill, func() { must(t, os.Remove(ballast)) }
}
