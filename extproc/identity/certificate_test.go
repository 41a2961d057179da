package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/identity"
)

// A certificate names an agent where one of the authorities has signed it for clients, its time has come and is not over, and it
// says in one way whose it is.
func TestCertificates(t *testing.T) {
	now := time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(c *x509.Certificate, parent *x509.Certificate) *x509.Certificate {
		c.SerialNumber, c.NotBefore = big.NewInt(now.UnixNano()), now.Add(-time.Hour)
		if c.NotAfter.IsZero() {
			c.NotAfter = now.Add(time.Hour)
		}
		if parent == nil {
			parent = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	authority := func(name string) (*x509.Certificate, string) {
		c := issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		return c, file
	}
	spiffe, spiffeFile := authority("spiffe")
	plain, plainFile := authority("plain")
	v, err := identity.New(identity.Options{Issuers: []identity.Issuer{
		{Issuer: "spiffe://agents.test", Kind: "mtls", CAFile: spiffeFile, Revoked: []string{"spiffe://agents.test/gone"}},
		{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile, Certificates: map[string]string{"CN=ci,O=Example": "ci"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	uris := func(list ...string) (out []*url.URL) {
		for _, s := range list {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, u)
		}
		return out
	}
	ci := pkix.Name{CommonName: "ci", Organization: []string{"Example"}}
	also := func(value any, id ...int) pkix.Name { // the subject of ci, and before it another name
		return pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: id, Value: value}, {Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "Example"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "ci"},
		}}
	}
	for name, c := range map[string]struct {
		leaf          *x509.Certificate
		parent        *x509.Certificate
		subject, want string
	}{
		"a workload":                  {&x509.Certificate{URIs: uris("spiffe://agents.test/ns/a/sa/b"), ExtKeyUsage: client}, spiffe, "spiffe://agents.test/ns/a/sa/b", ""},
		"a mapped subject":            {&x509.Certificate{Subject: ci, ExtKeyUsage: client}, plain, "ci", ""},
		"of the other authority":      {&x509.Certificate{Subject: ci, ExtKeyUsage: client}, spiffe, "", identity.Claims},
		"an id of another authority":  {&x509.Certificate{URIs: uris("spiffe://agents.test/a"), ExtKeyUsage: client}, plain, "", identity.Unregistered},
		"nobody's":                    {&x509.Certificate{URIs: uris("spiffe://agents.test/a"), Subject: ci, ExtKeyUsage: client}, nil, "", identity.UnknownParty},
		"for servers":                 {&x509.Certificate{URIs: uris("spiffe://agents.test/a"), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, spiffe, "", identity.UnknownParty},
		"over":                        {&x509.Certificate{URIs: uris("spiffe://agents.test/a"), ExtKeyUsage: client, NotAfter: now.Add(-time.Minute)}, spiffe, "", identity.Expired},
		"two ids":                     {&x509.Certificate{URIs: uris("spiffe://agents.test/a", "spiffe://agents.test/b"), ExtKeyUsage: client}, spiffe, "", identity.Claims},
		"another trust domain":        {&x509.Certificate{URIs: uris("spiffe://other.test/a"), ExtKeyUsage: client}, spiffe, "", identity.Tenant},
		"the trust domain itself":     {&x509.Certificate{URIs: uris("spiffe://agents.test"), ExtKeyUsage: client}, spiffe, "", identity.Tenant},
		"a revoked one":               {&x509.Certificate{URIs: uris("spiffe://agents.test/gone"), ExtKeyUsage: client}, spiffe, "", identity.Revoked},
		"two common names":            {&x509.Certificate{Subject: also("root", 2, 5, 4, 3), ExtKeyUsage: client}, plain, "", identity.Unregistered},
		"another order of names":      {&x509.Certificate{Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "ci"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "Example"}}}, ExtKeyUsage: client}, plain, "ci", ""},
		"a comma within a name":       {&x509.Certificate{Subject: pkix.Name{CommonName: "ci,O=Example"}, ExtKeyUsage: client}, plain, "", identity.Unregistered},
		"another unit":                {&x509.Certificate{Subject: also("Ops", 2, 5, 4, 11), ExtKeyUsage: client}, plain, "", identity.Unregistered},
		"an attribute of its own":     {&x509.Certificate{Subject: also("x", 1, 2, 3), ExtKeyUsage: client}, plain, "", identity.Unregistered},
		"a subject that nobody knows": {&x509.Certificate{Subject: pkix.Name{CommonName: "ci"}, ExtKeyUsage: client}, plain, "", identity.Unregistered},
	} {
		p, err := v.VerifyCertificate(issue(c.leaf, c.parent))
		var why *identity.Refusal
		switch {
		case c.want == "" && (err != nil || p.Subject != c.subject || p.Verified.Method != "mtls" || v.Still(p) != nil):
			t.Errorf("%s: %+v, error %v", name, p, err)
		case c.want != "" && (!errors.As(err, &why) || why.Reason != c.want):
			t.Errorf("%s: %+v, error %v; want %s", name, p, err, c.want)
		}
	}
	p, err := v.VerifyCertificate(issue(&x509.Certificate{Subject: ci, ExtKeyUsage: client}, plain))
	if err != nil {
		t.Fatal(err)
	}
	for name, certificates := range map[string]map[string]string{
		"is nobody's any more":   {"CN=other": "ci"},
		"is somebody else's now": {"CN=ci,O=Example": "other"},
	} {
		reloaded, err := identity.New(identity.Options{Issuers: []identity.Issuer{{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile, Certificates: certificates}}})
		if err != nil {
			t.Fatal(err)
		}
		defer reloaded.Close()
		if reloaded.Still(p) == nil {
			t.Errorf("a certificate that %s is still taken", name)
		}
	}
	var none *identity.Verifier
	if _, err := none.VerifyCertificate(spiffe); err == nil {
		t.Error("no verifier verifies")
	}
	if _, err := v.Verify(t.Context(), "e30.e30.x"); err == nil {
		t.Error("a token is taken of an issuer that has none")
	}
	for _, wrong := range []identity.Issuer{
		{Issuer: "spiffe://agents.test/path", Kind: "mtls", CAFile: spiffeFile},
		{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile},
		{Issuer: "spiffe://agents.test", Kind: "mtls", CAFile: "/none"},
		{Issuer: "spiffe://agents.test", Kind: "mtls", CAFile: spiffeFile, Certificates: map[string]string{"CN=ci": "ci"}},
		{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile, Certificates: map[string]string{"/O=Example/CN=ci": "ci"}},
		{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile, Certificates: map[string]string{"CN=ci, O=Example": "ci"}},
		{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile, Certificates: map[string]string{`CN=\C3\A4`: "ci"}},
		{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile, Certificates: map[string]string{"DC=test,CN=ci": "ci"}},
		{Issuer: "urn:example:ca", Kind: "mtls", CAFile: plainFile, Certificates: map[string]string{"CN=ci,O=Example": "ci", "O=Example,CN=ci": "other"}},
	} {
		if v, err := identity.New(identity.Options{Issuers: []identity.Issuer{wrong}}); err == nil {
			v.Close()
			t.Errorf("%+v is taken", wrong)
		}
	}
}
