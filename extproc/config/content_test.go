package config

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// certificate writes NAME.pem, signed by its own key, and NAME.key.
func certificate(t testing.TB, dir, name string, key crypto.Signer, from, until time.Time) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for ext, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name+ext), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func ecKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// What is in a file is held to what the key wants there, for every key that wants it.
func TestWhatIsInFiles(t *testing.T) {
	path := directory(t)
	dir := filepath.Dir(path)
	now := time.Now()
	certificate(t, dir, "other", ecKey(t), now.Add(-time.Hour), now.Add(time.Hour))
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	certificate(t, dir, "small", small, now.Add(-time.Hour), now.Add(time.Hour))
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	certificate(t, dir, "edwards", edwards, now.Add(-time.Hour), now.Add(time.Hour))
	if err := os.WriteFile(filepath.Join(dir, "empty"), []byte(" \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := func(tls string) string {
		return strings.Replace(good, `{address: "127.0.0.1:8080"}`, `{address: "127.0.0.1:8080", tls: `+tls+`}`, 1)
	}
	people := func(s string) string {
		return good + "people: {issuer: \"https://idp.example.com\", client_id: console, " + s + "}\n"
	}
	const mismatch = "names DIR/other.key, which is not the key of cert.pem: private key does not match public key"
	for _, c := range []struct{ name, text, want string }{
		{"a key of another certificate, of a listener", listen("{certificate_file: cert.pem, key_file: other.key}"), ":10: resources[0].listen.tls.key_file: " + mismatch},
		{"of a target", good + "    target_tls: {certificate_file: cert.pem, key_file: other.key}\n", ":12: resources[0].target_tls.key_file: " + mismatch},
		{"of the console", good + "listen: {console_tls: {certificate_file: cert.pem, key_file: other.key}}\n", ":12: listen.console_tls.key_file: " + mismatch},
		{"of the socket of Envoy", good + "listen: {envoy_tls: {certificate_file: cert.pem, key_file: other.key}}\n", ":12: listen.envoy_tls.key_file: " + mismatch},
		{"of the collector", good + "evidence: {otlp: {endpoint: \"c:1\", certificate_file: cert.pem, key_file: other.key}}\n", ":12: evidence.otlp.key_file: " + mismatch},
		{"of the store", good + "approvals: {store: \"rediss://r:1\", redis: {certificate_file: cert.pem, key_file: other.key}}\n", ":12: approvals.redis.key_file: " + mismatch},
		{"a key in the place of a certificate", listen("{certificate_file: key.pem, key_file: key.pem}"), ":10: resources[0].listen.tls.certificate_file: names DIR/key.pem, which has no certificate in PEM: there is no block that is called CERTIFICATE"},
		{"a key that is none", listen("{certificate_file: cert.pem, key_file: value}"), ":10: resources[0].listen.tls.key_file: names DIR/value, which is not the key of cert.pem: failed to find any PEM data in key input"},
		{"an RSA key that Envoy does not take", listen("{certificate_file: small.pem, key_file: small.key}"), ":10: resources[0].listen.tls.certificate_file: names DIR/small.pem, whose RSA key has 1024 bits, and Envoy takes 2048 and more"},
		{"a key of a kind that Envoy does not take", listen("{certificate_file: edwards.pem, key_file: edwards.key}"), ":10: resources[0].listen.tls.certificate_file: names DIR/edwards.pem, whose key is Ed25519, and Envoy takes RSA and ECDSA"},
		{"which we take", good + "listen: {console_tls: {certificate_file: edwards.pem, key_file: edwards.key}}\n", ""},
		{"roots that are none, of an issuer", strings.Replace(good, "[countersign]", "[countersign]\n    ca_file: value", 1), ":7: agents[0].ca_file: names DIR/value, which has no certificate in PEM"},
		{"of clients", listen("{certificate_file: cert.pem, key_file: key.pem, client_ca_file: empty}"), ":10: resources[0].listen.tls.client_ca_file: names DIR/empty, which has no certificate in PEM"},
		{"of people", people("ca_file: value"), ":12: people.ca_file: names DIR/value, which has no certificate in PEM"},
		{"an empty credential", good + "    credential: {value_file: empty}\n", ":12: resources[0].credential.value_file: names DIR/empty, which is empty: a secret belongs there"},
		{"an empty secret of the client", people("client_secret_file: empty"), ":12: people.client_secret_file: names DIR/empty, which is empty: a secret belongs there"},
		{"an empty secret of a webhook", good + "approvals: {webhook: {url: \"https://chat.example\", secret_file: empty}}\n", ":12: approvals.webhook.secret_file: names DIR/empty, which is empty: a secret belongs there"},
		{"an empty password", good + "approvals: {store: \"rediss://r:1\", redis: {password_file: empty, sentinel_password_file: empty}}\n", ":12: approvals.redis.password_file: names DIR/empty, which is empty: a secret belongs there\n:12: approvals.redis.sentinel_password_file: names DIR/empty, which is empty: a secret belongs there"},
		{"an empty header", good + "evidence: {otlp: {endpoint: \"c:1\", header_files: {x-key: empty}}}\n", ":12: evidence.otlp.header_files.x-key: names DIR/empty, which is empty: a secret belongs there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if _, err := Parse(path, []byte(c.text)); err != nil {
				got = strings.NewReplacer(path+":", ":", dir, "DIR").Replace(err.Error())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A certificate that has expired, or is not good yet, is told and keeps nothing from starting.
func TestCertificatesOutOfDate(t *testing.T) {
	path := directory(t)
	dir := filepath.Dir(path)
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	certificate(t, dir, "old", ecKey(t), now.Add(-time.Hour), now.Add(-time.Second))
	certificate(t, dir, "new", ecKey(t), now.Add(time.Second), now.Add(time.Hour))
	certificate(t, dir, "now", ecKey(t), now.Add(-time.Second), now.Add(time.Second))
	var some []byte
	for _, name := range []string{"old.pem", "now.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		some = append(some, text...)
	}
	if err := os.WriteFile(filepath.Join(dir, "some.pem"), some, 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(good, `{address: "127.0.0.1:8080"}`, `{address: "127.0.0.1:8080", tls: {certificate_file: old.pem, key_file: old.key, client_ca_file: some.pem}}`, 1) +
		"    target_tls: {certificate_file: now.pem, key_file: now.key, ca_file: new.pem}\n"
	c, err := Parse(path, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.NewReplacer(path+":", ":", dir, "DIR").Replace(c.OutOfDate(now).Error())
	want := ":10: resources[0].listen.tls.certificate_file: names DIR/old.pem, and the certificate of CN=old in it expired at 2030-01-02T03:04:04Z\n" +
		":12: resources[0].target_tls.ca_file: names DIR/new.pem, and the certificate of CN=new in it is not good before 2030-01-02T03:04:06Z"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
