package keyfile_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/keyfile"
)

func TestSecretsAndRoots(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for text, want := range map[string]string{"secret": "secret", " secret \r\n\n": " secret ", "two\nlines\n": "two\nlines"} {
		if got, err := keyfile.Secret(file(text)); got != want || err != nil {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "\n", " \t\r\n"} {
		if got, err := keyfile.Secret(file(text)); err == nil || got != "" || !strings.Contains(err.Error(), "file is empty: a secret belongs there") {
			t.Errorf("%q is the secret %q, %v", text, got, err)
		}
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if pool, err := keyfile.Roots(file("text before\n" + string(block))); err != nil || !pool.Equal(server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs) {
		t.Errorf("the roots are not those of the file: %v", err)
	}
	for _, path := range []string{"", filepath.Join(dir, "none"), file("text")} {
		if pool, err := keyfile.Roots(path); pool != nil || err == nil {
			t.Errorf("the roots of %q are %v, which to crypto/tls can be those of the system", path, pool)
		}
	}
	if pool, err := keyfile.RootsOrSystem(""); pool != nil || err != nil {
		t.Errorf("%v, %v", pool, err)
	}
}
