package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
)

// TestCheckFindsWhatWouldNotWork runs the command on configurations that look right and would not work: each names its line.
func TestCheckFindsWhatWouldNotWork(t *testing.T) {
	t.Parallel()
	issuer := extproctest.StartIssuer(t, extproctest.IssuerOptions{})
	authority := extproctest.NewAuthority(t)
	one, other := authority.Issue("agents.test"), authority.Issue("agents.test")
	dir := extproctest.Dir(t)
	for name, text := range map[string]string{
		"policies/payments.rego": "package rules.payments\n\nallow contains {\"id\": \"all\"}\n",
		"secrets/scheme":         "Bearer \n", "secrets/empty": "\n", "secrets/good": "Bearer x\n",
	} {
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	away := "http://" + extproctest.FreeAddress(t)
	for _, c := range []struct {
		name, issuer, listen, resource, more string
		args                                 []string
		want                                 string // "" where it is well
	}{
		{name: "well"},
		{name: "well, and everybody answers", args: []string{"--online"}},
		{name: "an issuer with a slash too many", issuer: issuer.URL + "/", want: fmt.Sprintf(`:5: agents[0].issuer: the configuration names the issuer "%[1]s/", and it calls itself "%[1]s", and a slash at the end counts`, issuer.URL)},
		{name: "which nobody asks", issuer: issuer.URL + "/", args: []string{"--offline"}},
		{name: "an issuer of people with a slash too many", more: fmt.Sprintf("people: {issuer: %q, client_id: c}\n", issuer.URL+"/"), want: ": people.issuer: the configuration names the issuer"},
		{name: "an issuer that is away", issuer: away},
		{name: "and has to answer", issuer: away, args: []string{"--online"}, want: ":5: agents[0].issuer: discover the issuer:"},
		{name: "a key of another certificate", listen: fmt.Sprintf(", tls: {certificate_file: %s, key_file: %s}", one.CertFile, other.KeyFile), want: "private key does not match public key"},
		{name: "a console that links cannot lead to", more: fmt.Sprintf("listen: {console: \"0.0.0.0:8443\", console_tls: {certificate_file: %s, key_file: %s}}\n", one.CertFile, one.KeyFile), want: "listen.console: is 0.0.0.0:8443, an address that nobody can open"},
		{name: "an empty credential", resource: "credential: {value_file: secrets/empty}", want: "which is empty: a secret belongs there"},
		{name: "a credential that is a scheme alone", resource: "credential: {value_file: secrets/scheme}", want: `holds the scheme "bearer", and no credential after it`},
		{name: "a good credential", resource: "credential: {value_file: secrets/good}"},
	} {
		if c.issuer == "" {
			c.issuer = issuer.URL
		}
		path := filepath.Join(dir, "countersign.yaml")
		must(t, os.WriteFile(path, fmt.Appendf(nil, "node: gw-1\ndata: ./var\npolicies: ./policies\nagents:\n  - {issuer: %q, audience: [countersign], roles_claim: realm_access.roles}\n"+
			"resources:\n  - name: payments\n    kind: http\n    listen: {address: \"127.0.0.1:8080\"%s}\n    target: http://127.0.0.1:9401\n    %s\n%s", c.issuer, c.listen, c.resource, c.more), 0o600))
		out, code := runCommand(t, append([]string{"check", "--config", path}, c.args...)...)
		if well := strings.Contains(out, " is well: "); c.want == "" && (!well || code != 0) || c.want != "" && (well || code != 1 || !strings.Contains(out, c.want)) {
			t.Errorf("%s: exit %d, want %q\n%s", c.name, code, c.want, out)
		}
	}
}
