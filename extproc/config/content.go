package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Checks of what is in the files that a configuration names.

// maxContent bounds how much of a file is read to check it.
const maxContent = 4 << 20

// content checks what is in a file. The name of the key tells what belongs there.
func (k Checker) content(p Path, f io.Reader) {
	read := func() []byte {
		text, err := io.ReadAll(io.LimitReader(f, maxContent))
		if err != nil {
			k.Fail("names %s, which cannot be read: %s", p, reason(err))
		}
		return text
	}
	switch name := lastOf(k.key); {
	case strings.HasSuffix(name, "secret_file"), strings.HasSuffix(name, "password_file"), name == "value_file", strings.Contains(k.key, "header_files."):
		if len(bytes.TrimSpace(read())) == 0 {
			k.Fail("names %s, which is empty: a secret belongs there", p)
		}
	case strings.HasSuffix(name, "ca_file"):
		if !x509.NewCertPool().AppendCertsFromPEM(read()) {
			k.Fail("names %s, which has no certificate in PEM", p)
		}
	}
}

// smallestRSA is the size of the smallest RSA key that Envoy accepts, in bits.
const smallestRSA = 2048

// keyPair checks that key belongs to certificate. Files that cannot be read are reported elsewhere.
func (k Checker) keyPair(certificate, key Path) {
	chain, err := os.ReadFile(string(certificate))
	if err != nil {
		return
	}
	secret, err := os.ReadFile(string(key))
	if err != nil {
		return
	}
	if leaf, _, err := nextCertificate(chain); err != nil {
		k.At("certificate_file").Fail("names %s, which has no certificate in PEM: %v", certificate, err)
		return
	} else if strings.HasPrefix(k.key, "resources[") {
		k.takenByEnvoy(certificate, leaf)
	}
	if _, err := tls.X509KeyPair(chain, secret); err != nil {
		k.At("key_file").Fail("names %s, which is not the key of %s: %s", key, filepath.Base(string(certificate)), strings.TrimPrefix(err.Error(), "tls: "))
	}
}

func (k Checker) takenByEnvoy(p Path, leaf *x509.Certificate) {
	switch public := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < smallestRSA {
			k.At("certificate_file").Fail("names %s, whose RSA key has %d bits, and Envoy takes %d and more", p, bits, smallestRSA)
		}
	default:
		k.At("certificate_file").Fail("names %s, whose key is %v, and Envoy takes RSA and ECDSA", p, leaf.PublicKeyAlgorithm)
	}
}

// nextCertificate returns the first certificate of a PEM file, and the text after it.
func nextCertificate(text []byte) (*x509.Certificate, []byte, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, nil, errors.New("there is no block that is called CERTIFICATE")
		}
		if text = rest; block.Type == "CERTIFICATE" {
			leaf, err := x509.ParseCertificate(block.Bytes)
			return leaf, rest, err
		}
	}
}

// KnownByCertificate is for resources whose agents are known by the certificates that they connect with. Envoy lets those of the
// authorities of t connect, and an issuer of kind mtls knows those that an authority of its own has signed itself.
func (k Checker) KnownByCertificate(t *ServerTLS) {
	if t == nil || t.ClientCAFile == "" {
		return
	}
	clients := certificates(t.ClientCAFile)
	known := slices.ContainsFunc(k.d.agents, func(a Agent) bool {
		own := certificates(a.CAFile) // a file that cannot be read is told of by itself
		return a.Kind == "mtls" && (len(own) == 0 || slices.ContainsFunc(own, func(c *x509.Certificate) bool { return vouchedFor(c, own, clients) }))
	})
	if !known && len(clients) > 0 {
		k.At("client_ca_file").Fail("names %s, and no issuer of kind mtls has an authority of it in its ca_file, so that nobody who connects would be known: name the same file in agents", t.ClientCAFile)
	}
}

// TokenIssuers are the issuers that give agents tokens.
func (k Checker) TokenIssuers() []string { return TokenIssuers(k.d.agents) }

// vouchedFor reports whether c is one of roots, or signed by one, perhaps through others beside it.
func vouchedFor(c *x509.Certificate, beside, roots []*x509.Certificate) bool {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: c.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, r := range roots {
		if r.Equal(c) {
			return true
		}
		o.Roots.AddCert(r)
	}
	for _, b := range beside {
		o.Intermediates.AddCert(b)
	}
	_, err := c.Verify(o)
	return err == nil
}

// certificates are those of a PEM file, up to one that cannot be read.
func certificates(p Path) (list []*x509.Certificate) {
	text, err := os.ReadFile(string(p))
	for err == nil {
		var c *x509.Certificate
		if c, text, err = nextCertificate(text); err == nil {
			list = append(list, c)
		}
	}
	return list
}

// OutOfDate lists the certificate files named by c that are not valid at that time: files of roots in which no certificate is
// valid, and chains whose first certificate is not. The program starts all the same, since the rest works.
func (c *Config) OutOfDate(now time.Time) Problems {
	var list Problems
	for _, p := range c.Paths() {
		roots := strings.HasSuffix(p.Key, "ca_file")
		if !roots && !strings.HasSuffix(p.Key, "certificate_file") {
			continue
		}
		found := certificates(p.Path) // of a file that cannot be read the configuration's own check tells
		if !roots {
			found = found[:min(1, len(found))]
		}
		if message := outOfDate(found, now); message != "" {
			list = append(list, c.Problem(p.Key, fmt.Sprintf("names %s, and %s", p.Path, message)))
		}
	}
	return list
}

// outOfDate says what is wrong with the last of list, if none is valid at that time.
func outOfDate(list []*x509.Certificate, now time.Time) (message string) {
	for _, c := range list {
		switch {
		case now.After(c.NotAfter):
			message = fmt.Sprintf("the certificate of %s in it expired at %s", c.Subject, c.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(c.NotBefore):
			message = fmt.Sprintf("the certificate of %s in it is not good before %s", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
		default:
			return ""
		}
	}
	return message
}
