package extproctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Authority is a certificate authority for one test. It vouches for loopback names and for those it is asked to.
type Authority struct {
	CAFile string // PEM, for clients that take a file
	Pool   *x509.CertPool

	tb   TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority whose files live as long as the test.
func NewAuthority(tb TB) *Authority {
	tb.Helper()
	a := &Authority{tb: tb, dir: Dir(tb), Pool: x509.NewCertPool()}
	a.key = a.newKey()
	template := &x509.Certificate{
		SerialNumber:          a.serial(),
		Subject:               pkix.Name{CommonName: "test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	a.cert = a.sign(template, template, &a.key.PublicKey)
	a.Pool.AddCert(a.cert)
	a.CAFile = a.write("ca.pem", "CERTIFICATE", a.cert.Raw)
	return a
}

// Certificate is a certificate with its key, in memory and as PEM files.
type Certificate struct {
	TLS      tls.Certificate
	CertFile string
	KeyFile  string
}

// Issue makes a certificate that serves as server and as client, for the given DNS names, for localhost and for 127.0.0.1.
// The first name is the common name. Names that are URIs (spiffe://…) become such.
func (a *Authority) Issue(names ...string) Certificate {
	a.tb.Helper()
	return a.IssueUntil(time.Now().Add(24*time.Hour), names...)
}

// IssueUntil is Issue of a certificate that is good for the 25 hours until end.
func (a *Authority) IssueUntil(end time.Time, names ...string) Certificate {
	a.tb.Helper()
	var uris []*url.URL
	names = slices.DeleteFunc(append(names, "localhost"), func(name string) bool {
		u, err := url.Parse(name)
		isURI := err == nil && u.Scheme != "" && u.Host != ""
		if isURI {
			uris = append(uris, u)
		}
		return isURI
	})
	key := a.newKey()
	cert := a.sign(&x509.Certificate{
		SerialNumber: a.serial(),
		Subject:      pkix.Name{CommonName: names[0]},
		NotBefore:    end.Add(-25 * time.Hour),
		NotAfter:     end,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:     names,
		URIs:         uris,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}, a.cert, &key.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatalf("encode a key: %v", err)
	}
	serial := cert.SerialNumber.Text(16)
	return Certificate{
		TLS:      tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert},
		CertFile: a.write(serial+".pem", "CERTIFICATE", cert.Raw),
		KeyFile:  a.write(serial+".key", "PRIVATE KEY", der),
	}
}

func (a *Authority) newKey() *ecdsa.PrivateKey {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatalf("make a key: %v", err)
	}
	return key
}

func (a *Authority) serial() *big.Int {
	a.tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		a.tb.Fatalf("make a serial number: %v", err)
	}
	return n
}

func (a *Authority) sign(template, parent *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	a.tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		a.tb.Fatalf("sign the certificate of %s: %v", template.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.tb.Fatalf("read the certificate of %s: %v", template.Subject, err)
	}
	return cert
}

func (a *Authority) write(name, kind string, der []byte) string {
	a.tb.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.tb.Fatalf("write a certificate: %v", err)
	}
	return path
}
