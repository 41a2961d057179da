// Package keyfile reads what a configuration keeps in files of their own: secrets, and the roots that certificates are verified
// with. Unlike the files of a data directory they can be links, as those of mounted secrets are.
package keyfile

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"
)

// RootsOrSystem is Roots, and nil for a path of "", which to crypto/tls are the roots of the system. It is for servers that anybody
// can have certified, never for clients.
func RootsOrSystem(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	return Roots(path)
}

// Roots returns the certificates of a PEM file as roots. Without a file there is an error, and no pool that would let others in.
func Roots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no PEM certificate", path)
	}
	return pool, nil
}

// Secret returns what is in a file without the newlines at its end. A file of nothing else than white space is an error, since a
// secret that is empty protects nothing.
func Secret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(string(text)) == "" {
		return "", fmt.Errorf("%s is empty: a secret belongs there", path)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
