package identity

import (
	"encoding/json"
	"flag"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/countersign/countersign/extproc/gate"
)

var update = flag.Bool("update", false, "rewrite the principals in testdata/sources")

// TestSources reads testdata/sources/*.txtar: the issuer's configuration, the claims as such an issuer makes them, and
// the principal or the refusal that comes of it. The issuer's address stands as ISSUER, and times are added.
func TestSources(t *testing.T) {
	files, err := filepath.Glob("testdata/sources/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			part := map[string][]byte{}
			for _, f := range archive.Files {
				part[f.Name] = f.Data
			}
			got := source(t, part)
			if *update {
				archive.Files[len(archive.Files)-1].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(part["principal"]), got); diff != "" {
				t.Errorf("%s(-want +got)\n%s", archive.Comment, diff)
			}
		})
	}
}

func source(t *testing.T, part map[string][]byte) string {
	a, c := newAuthority(t), newClock()
	config := Issuer{Issuer: "ISSUER", Audience: []string{"countersign"}}
	if err := json.Unmarshal(part["config"], &config); err != nil {
		t.Fatal(err)
	}
	header, claims := maps.Clone(standard), object{"iat": c.now().Unix(), "nbf": c.now().Unix(), "exp": c.now().Add(time.Hour).Unix()}
	if b, ok := part["header"]; ok {
		header = object{}
		if err := json.Unmarshal(b, &header); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(part["claims"], &claims); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(config.Issuer, "spiffe:") {
		b, _ := json.Marshal(map[string]any{"keys": []any{public("k1", keyRSA())}})
		config.JWKSFile = filepath.Join(t.TempDir(), "bundle.json")
		if err := os.WriteFile(config.JWKSFile, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The tenant is in an Entra issuer's path, so the address gets that path and the authority serves it.
	issuer := strings.Replace(config.Issuer, "ISSUER", a.URL, 1)
	if path := strings.TrimPrefix(issuer, a.URL); path != "" && path != issuer {
		a.servePath(path, issuer)
	}
	config.Issuer = issuer
	if iss, ok := claims["iss"].(string); ok {
		claims["iss"] = strings.Replace(iss, "ISSUER", a.URL, 1)
	}

	v, err := New(Options{Issuers: []Issuer{config}, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	p, err := v.Verify(t.Context(), sign(t, header, claims, keyRSA()))
	if err != nil {
		return strings.ReplaceAll(err.Error(), a.URL, "ISSUER") + "\n"
	}
	op := &gate.Operation{Principal: p, Resource: gate.Resource{Name: "r", Kind: "k"}, Detail: detail{}}
	input, err := op.Input()
	if err != nil {
		t.Fatal(err)
	}
	var all struct{ Principal json.RawMessage }
	if err := json.Unmarshal(input, &all); err != nil {
		t.Fatal(err)
	}
	var indented strings.Builder
	e := json.NewEncoder(&indented)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(all.Principal); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(indented.String(), a.URL, "ISSUER")
}

// servePath makes the authority serve an issuer that has a path.
func (a *authority) servePath(path, issuer string) {
	root := a.Config.Handler
	a.change(func() {
		a.metadata = object{"issuer": issuer, "jwks_uri": a.URL + strings.TrimSuffix(path, "/") + "/keys"}
	})
	a.Config.Handler = http.StripPrefix(strings.TrimSuffix(path, "/"), root)
}

type detail struct{}

func (detail) Key() string         { return "detail" }
func (detail) Object() gate.Object { return nil }

func (detail) Volatile() gate.Object { return nil }

func (detail) Recorded() gate.Object { return nil }

// What an approval binds must be the same for the next token of the same agent.
func TestClaimsSurviveRenewal(t *testing.T) {
	a, c := newAuthority(t), newClock()
	v := verifier(t, a, c)
	base := with(good(a, c), object{"groups": []string{"b", "a", "a"}, "aud": []string{"countersign", "api"}, "scope": "read", "big": json.Number("12345678901234567890")})
	first, err := v.Verify(t.Context(), sign(t, standard, base, keyRSA()))
	if err != nil {
		t.Fatal(err)
	}
	c.advance(time.Minute)
	second, err := v.Verify(t.Context(), sign(t, standard, with(base, object{
		"iat": c.now().Unix(), "nbf": c.now().Unix(), "exp": c.now().Add(time.Hour).Unix(), "jti": "token-2", "uti": "x", "sid": "y", "auth_time": 5,
		"groups": []string{"a", "b"}, "aud": []string{"api", "countersign"},
	}), keyRSA()))
	if err != nil {
		t.Fatal(err)
	}
	firstJSON, _ := gate.AppendJSON(nil, first.Claims)
	secondJSON, _ := gate.AppendJSON(nil, second.Claims)
	if string(firstJSON) != string(secondJSON) {
		t.Errorf("claims differ:\n%s\n%s", firstJSON, secondJSON)
	}
	if diff := cmp.Diff([]string{"a", "b"}, first.Groups); diff != "" {
		t.Error(diff)
	}
	if n, _ := first.Claims.Get("big"); n != json.Number("12345678901234567890") {
		t.Errorf("a large number became %v (%T)", n, n)
	}
	if first.Verified.TokenID == second.Verified.TokenID {
		t.Error("two tokens have one id")
	}
}
