package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
)

// TestFirstMistakesWithPostgres runs the commands on what somebody who sets up a PostgreSQL server for the first time gets wrong: each answer
// says what, where and how to mend it.
func TestFirstMistakesWithPostgres(t *testing.T) {
	t.Parallel()
	root, err := extproctest.Root()
	must(t, err)
	example := filepath.Join(root, "examples", "postgres")
	const allow = "allow contains {\"id\": \"read\"} if postgres.reads_only({\"public.*\"})\n"
	for _, c := range []struct {
		name, file, old, text string // what is changed of the example
		command               []string
		want                  []string // none where it is well
	}{
		{name: "the example"},
		{
			name: "no roles", old: "    roles:                                 # what an agent may name as `user`, and the gateway's own password for it at the server\n      app_reader: {password_file: ./secrets/app_reader}\n      app_writer: {password_file: ./secrets/app_writer}\n",
			want: []string{"countersign.yaml:", "resources[0].roles: is required: name at least one role, or nobody can connect"},
		},
		{
			name: "a password in the target", old: "postgres://127.0.0.1:5432", text: "postgres://app:hunter2@127.0.0.1:5432/orders",
			want: []string{"resources[0].target: is no postgres://HOST:PORT: it has the server's address, and no user, password or database, which are in roles and databases"},
		},
		{
			name: "another scheme", old: "postgres://127.0.0.1:5432", text: "postgresql://127.0.0.1:5432",
			want: []string{"resources[0].target: ", "postgres://HOST:PORT"},
		},
		{
			name: "a secret that is not there", old: "./secrets/app_writer", text: "./secrets/app_wirter",
			want: []string{"resources[0].roles.app_writer.password_file: names", "app_wirter, which cannot be read"},
		},
		{
			name: "a password in the configuration", old: "{password_file: ./secrets/app_writer}", text: "{password: hunter2}",
			want: []string{"resources[0].roles.app_writer.password: is not a key that is known here", "password_file"},
		},
		{
			name: "a listener without TLS off loopback", old: `"127.0.0.1:6432"`, text: `"0.0.0.0:6432"`,
			want: []string{"resources[0].listen.address: ", "agents' tokens would cross the network in the clear: set tls"},
		},
		{
			name: "a plain target elsewhere", old: "postgres://127.0.0.1:5432", text: "postgres://db.internal:5432",
			want: []string{"resources[0].target: is \"postgres://db.internal:5432\", which is plain to another machine: set target_tls"},
		},
		{
			name: "two on one address", old: "    databases: [orders]\n", text: "    databases: [orders]\n  - name: more\n    kind: postgres\n    listen: {address: \"127.0.0.1:6432\"}\n    target: postgres://127.0.0.1:5433\n    policy: orders\n    roles: {app_reader: {password_file: ./secrets/app_reader}}\n",
			want: []string{"resources[1].listen.address: is that of resource \"orders\": give one of them another address"},
		},
		{
			name: "keys of HTTP", old: "    databases: [orders]\n", text: "    credential: {header: Authorization, value_file: ./secrets/app_reader}\n",
			want: []string{"resources[0].credential: is not a key that is known here"},
		},
		{
			name: "a key that is misspelt", old: "    databases: [orders]\n", text: "    database: [orders]\n",
			want: []string{"resources[0].database: is not a key that is known here", "databases"},
		},
		{
			name: "a policy for HTTP", file: "policies/orders.rego", old: allow, text: "allow contains {\"id\": \"read\"} if input.http.method == \"GET\"\n",
			want: []string{"policies/orders.rego:17:", "there is no input.http here: resources of policy \"orders\" are of kind \"postgres\""},
		},
		{
			name: "a member that is misspelt", file: "policies/orders.rego", old: allow, text: "allow contains {\"id\": \"read\"} if input.postgres.acces == \"read\"\n",
			want: []string{"policies/orders.rego:17:", "input.postgres.acces", "access"},
		},
		{
			name: "a path in the place of a column", file: "policies/orders.rego", old: `{"column": "public.customers.email", "with": "token"}`, text: `{"path": "$..email"}`,
			want: []string{"policies/orders.rego:", "nothing can be redacted by path here: resources of policy \"orders\" are of kind \"postgres\", which redacts by \"column\""},
		},
		{
			name: "a column without its table", file: "policies/orders.rego", old: `"public.customers.email"`, text: `"email"`,
			want: []string{"policies/orders.rego:", "\"email\"", "SCHEMA.TABLE.COLUMN"},
		},
		{
			name: "no package of that name", file: "policies/orders.rego", old: "package rules.orders\n", text: "package rules.order\n",
			want: []string{"orders", "rules"},
		},
		{
			name: "the library is not there", file: "policies/postgres.rego",
			want: []string{"policies/orders.rego:", "data.countersign.postgres"},
		},
		{name: "the policies' tests", command: []string{"policy", "test"}},
		{name: "an explanation", command: []string{"policy", "explain"}},
		{
			name: "an input with a member that none has", file: "request.json", old: `"access": "write"`, text: `"acces": "write"`, command: []string{"policy", "explain"},
			want: []string{"input.postgres.acces"},
		},
	} {
		dir := extproctest.Dir(t)
		must(t, os.CopyFS(dir, os.DirFS(example)))
		library, err := os.ReadFile(filepath.Join(root, "policies", "postgres.rego"))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "policies", "postgres.rego"), library, 0o600))
		must(t, os.Mkdir(filepath.Join(dir, "secrets"), 0o700))
		for _, role := range []string{"app_reader", "app_writer"} {
			must(t, os.WriteFile(filepath.Join(dir, "secrets", role), []byte("x\n"), 0o600))
		}
		config := filepath.Join(dir, "countersign.yaml")
		changed := config
		if c.file != "" {
			changed = filepath.Join(dir, c.file)
		}
		text, err := os.ReadFile(changed)
		must(t, err)
		switch {
		case c.old == "" && c.file != "":
			must(t, os.Remove(changed))
		case !strings.Contains(string(text), c.old):
			t.Fatalf("%s: %s has no %q", c.name, changed, c.old)
		default:
			must(t, os.WriteFile(changed, []byte(strings.Replace(string(text), c.old, c.text, 1)), 0o600))
		}
		args := append(c.command, "--config", config)
		switch {
		case c.command == nil:
			args = []string{"check", "--offline", "--config", config}
		case c.command[1] == "explain":
			args = append(args, "--input", filepath.Join(dir, "request.json"))
		}
		out, code := runCommand(t, args...)
		if c.want == nil && code != 0 {
			t.Errorf("%s: exit %d\n%s", c.name, code, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: exit %d, want %q\n%s", c.name, code, want, strings.ReplaceAll(out, dir, "DIR"))
			}
		}
		if strings.Contains(out, "hunter2") {
			t.Errorf("%s: a password is repeated:\n%s", c.name, out)
		}
	}
}
