package postgres_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/policy"
)

var update = flag.Bool("update", false, "write what the commands of README.md print")

// A reader is somebody who does what README.md says, on a machine with a PostgreSQL server and an OpenID provider.
type reader struct {
	t        *testing.T
	dir      string // a copy of this folder
	binary   string
	issuer   *extproctest.Issuer
	postgres *extproctest.Postgres
	envoy    string
	env      map[string]string
	admin    string
	card, id string            // of the request for approval
	example  *strings.Replacer // what is free on this machine, as the example says it
}

func newReader(t *testing.T) *reader {
	t.Helper()
	r := &reader{t: t, binary: extproctest.Build(t), issuer: extproctest.StartIssuer(t, extproctest.IssuerOptions{}), env: map[string]string{}}
	r.postgres = extproctest.StartPostgres(t, extproctest.PostgresConfig{})
	parts, err := extproctest.NewParts(os.Getenv, os.Stderr) //nolint:forbidigo // $ENVOY is for whoever runs the tests
	if err == nil {
		r.envoy, err = parts.FindEnvoy(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	bin, err := extproctest.FindPostgres()
	if err != nil {
		t.Fatal(err)
	}
	root := extproctest.Dir(t)
	r.dir = filepath.Join(root, "examples", "postgres")
	for to, from := range map[string]string{r.dir: ".", filepath.Join(root, "policies"): "../../policies"} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	programs := filepath.Join(root, "bin")
	if err := os.Mkdir(programs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.binary, filepath.Join(programs, "countersign")); err != nil {
		t.Fatal(err)
	}
	token, err := r.issuer.AgentToken(t.Context(), "agent-1")
	if err != nil {
		t.Fatal(err)
	}
	r.env["PATH"] = programs + ":" + bin + ":" + os.Getenv("PATH") //nolint:forbidigo // programs need it
	r.env["HOME"], r.env["LC_ALL"], r.env["TOKEN"] = root, "C.UTF-8", token
	r.env["PGHOST"], r.env["PGPORT"] = r.postgres.Dir, fmt.Sprint(r.postgres.Port)
	r.env["COUNTERSIGN_TOKEN"] = r.issuer.Mint(extproctest.Mint{Type: "at+jwt", Claims: extproctest.Claims{
		"sub": "u-bob", "aud": "countersign-console", "client_id": "countersign-console", "groups": []string{"dba"}, "auth_time": time.Now().Unix(),
	}})
	return r
}

// addresses puts what is free on this machine in the place of what the example says.
func (r *reader) addresses() {
	r.t.Helper()
	path := filepath.Join(r.dir, "countersign.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.admin = extproctest.FreeAddress(r.t)
	listener := extproctest.FreeAddress(r.t)
	r.env["LISTENER"] = listener[strings.Index(listener, ":")+1:]
	config := string(text)
	var back []string
	for example, ours := range map[string]string{
		"http://127.0.0.1:9400": r.issuer.URL, "127.0.0.1:5432": r.postgres.Address, "127.0.0.1:9440": r.admin,
		"127.0.0.1:8443": extproctest.FreeAddress(r.t), "127.0.0.1:6432": listener, "hold: 50s": "hold: 1s",
	} {
		if !strings.Contains(config, example) {
			r.t.Errorf("countersign.yaml does not mention %s", example)
		}
		config = strings.ReplaceAll(config, example, ours)
		back = append(back, ours, example)
	}
	r.example = strings.NewReplacer(append(back, r.env["TOKEN"], "TOKEN", "port "+r.env["LISTENER"], "port 6432")...)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

var exported = regexp.MustCompile(`(\w+)=(\S+)`)

// run runs a command of README.md, and returns what it prints, output before errors.
func (r *reader) run(command string) (string, error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 90*time.Second)
	defer cancel()
	command = strings.NewReplacer("PGPORT=6432", "PGPORT="+r.env["LISTENER"], " ID ", " "+r.id+" ", "CARD", r.card).Replace(command)
	if rest, ok := strings.CutPrefix(command, "export "); ok {
		for _, m := range exported.FindAllStringSubmatch(rest, -1) {
			r.env[m[1]] = os.Expand(m[2], func(name string) string { return r.env[name] })
		}
		return "", nil
	}
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command)
	cmd.Dir = r.dir
	for _, name := range slices.Sorted(maps.Keys(r.env)) {
		cmd.Env = append(cmd.Env, name+"="+r.env[name])
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return out.String() + errs.String(), err
}

// serve runs the gateway, and returns when it is ready.
func (r *reader) serve() {
	r.t.Helper()
	p := extproctest.Start(r.t, extproctest.Command{Name: "countersign", Path: r.binary, Dir: r.dir, Env: []string{"ENVOY=" + r.envoy}, Args: []string{"serve", "--envoy", "--config", "countersign.yaml"}})
	extproctest.Await(r.t, "the gateway to be ready", time.Minute, func(ctx context.Context) error {
		select {
		case <-p.Done():
			r.t.Fatalf("countersign ended:\n%s", p.Log())
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz says %s", resp.Status)
		}
		return nil
	})
}

// asked takes the one request that is open for what README.md calls ID and CARD.
func (r *reader) asked() {
	r.t.Helper()
	list, err := r.run("countersign approvals list --json --config countersign.yaml")
	var request struct {
		ID string `json:"id"`
	}
	if err != nil || json.Unmarshal([]byte(list), &request) != nil {
		r.t.Fatalf("%v\n%s", err, list)
	}
	r.id = request.ID
	card, err := r.run("countersign approvals show ID --config countersign.yaml")
	m := regexp.MustCompile(`(?m)^card +(\S+)$`).FindStringSubmatch(card)
	if err != nil || m == nil {
		r.t.Fatalf("%v\n%s", err, card)
	}
	for _, want := range []string{"summary   UPDATE of public.customers, without WHERE", "note = 'called'", "it has no WHERE", "app_writer"} {
		if !strings.Contains(card, want) {
			r.t.Errorf("the card does not say %q:\n%s", want, card)
		}
	}
	r.card = m[1]
}

// varying is what differs from run to run.
var varying = regexp.MustCompile(`[0-9a-f]{64}|[A-Z2-7]{26}|[0-9a-f]{8}-[0-9a-f-]{27}|tok_[0-9a-f]+|\d{4}-\d\d-\d\d [\d:]+|\d+[ms]\b|[ \t]+|-{3,}`)

// TestReadme does what README.md says, in its order, and holds what is printed to what is there.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t)
	parts := strings.Split(string(text), "```")
	if len(parts)%2 == 0 {
		t.Fatal("a block has no end")
	}
	ran := 0
	for i := 1; i < len(parts); i += 2 {
		kind, body, _ := strings.Cut(parts[i], "\n")
		switch {
		case kind == "console":
			got := r.console(body)
			ran += strings.Count(got, "$ ")
			if diff := cmp.Diff(varying.ReplaceAllString(body, "_"), varying.ReplaceAllString(got, "_")); diff != "" && !*update {
				t.Errorf("README.md (-it +now):\n%s", diff)
			}
			parts[i] = kind + "\n" + got
		case !strings.HasPrefix(body, "go test"):
			ran += r.commands(body)
		}
	}
	if ran < 20 {
		t.Errorf("%d commands were run", ran)
	}
	if *update {
		if err := os.WriteFile("README.md", []byte(strings.Join(parts, "```")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// console runs the commands of a block that shows what they print.
func (r *reader) console(body string) string {
	r.t.Helper()
	var out strings.Builder
	for line := range strings.Lines(body) {
		command, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "$ ")
		if !ok {
			continue
		}
		if strings.HasPrefix(command, "countersign approvals approve") {
			r.asked()
		}
		printed, err := r.run(command)
		if err != nil && !strings.Contains(printed, "ERROR:  ") {
			r.t.Errorf("%s: %v\n%s", command, err, printed)
		}
		printed = r.example.Replace(printed)
		out.WriteString(line + regexp.MustCompile(`\n+$`).ReplaceAllString(regexp.MustCompile(`(?m) +$`).ReplaceAllString(printed, ""), "\n"))
	}
	return out.String()
}

// commands runs those of a block, a line each. Before the one that looks at the configuration comes what the text says of it.
func (r *reader) commands(body string) (ran int) {
	r.t.Helper()
	for command := range strings.Lines(body) {
		command = strings.TrimSpace(command)
		if strings.HasPrefix(command, "countersign check ") {
			r.addresses()
		}
		if strings.HasPrefix(command, "countersign serve ") {
			r.serve()
			ran++
			continue
		}
		got, err := r.run(command)
		if err != nil {
			r.t.Fatalf("%s: %v\n%s", command, err, got)
		}
		for begin, want := range map[string]string{
			"countersign check ": "countersign.yaml is well: 1 resource(s), 1 issuer(s)", "countersign policy test ": "PASS: ", "countersign evidence verify ": "PASS: ",
			"countersign policy explain ": "verdict: ask\n", "countersign evidence show ": "approval.spent",
		} {
			if strings.HasPrefix(command, begin) && !strings.Contains(got, want) {
				r.t.Errorf("%s does not say %q:\n%s", command, want, got)
			}
		}
		ran++
	}
	return ran
}

var kinds = []policy.Kind{{Name: session.Protocol, Detail: session.Schema{}, Redact: []gate.Selector{gate.ByColumn}}}

func TestPolicies(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "policies")
	if err := os.CopyFS(dir, os.DirFS("policies")); err != nil {
		t.Fatal(err)
	}
	library, err := os.ReadFile("../../policies/postgres.rego")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "postgres.rego"), library, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if passed, err := policy.Test(t.Context(), dir, kinds, &out, false); err != nil || !passed {
		t.Errorf("error %v\n%s", err, out.String())
	}
	_, missed, err := policy.Coverage(t.Context(), dir, kinds)
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range missed {
		if strings.Contains(fmt.Sprint(place), "orders.rego") {
			t.Errorf("the tests do not cover %v", place)
		}
	}
	files, err := filepath.Glob("policies/*.rego")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := policy.Format(name, text); err != nil || string(want) != string(text) {
			t.Errorf("%s is not as opa fmt writes it (error %v)", name, err)
		}
	}
}
