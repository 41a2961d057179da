package session

import (
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/countersign/countersign/extproc/keyfile"
	"github.com/countersign/countersign/extproc/redact"
)

// Target is a resource of kind postgres, as its sessions need it. It does not change.
type Target struct {
	Address   string // HOST:PORT
	Egress    string // the unix socket at which Envoy leads the gateway there; empty where it connects by itself
	TLS       *TLS   // nil where the target is spoken to in the clear
	Roles     map[string]Credential
	Databases []string // any where it is empty

	// Certificate and Key are the files of the certificate that agents are shown; empty where they may connect in the clear, and must.
	// They are read for each session, so that a renewed certificate needs no reload.
	Certificate, Key string

	OAuth *OAuth // how agents give their tokens; as the password where it is nil

	Harmless    map[string]bool // functions, "schema.name", that a read may call beside the shipped list
	Fingerprint string          // of what Envoy carries out
	Limits      Limits
	Plans       *redact.Plans // of answers
}

// TLS is how the target is verified.
type TLS struct {
	CAFile string // the system's roots where it is empty
	Name   string // that its certificate must have
}

// Credential is the gateway's own for a role.
type Credential struct{ PasswordFile, CertificateFile, KeyFile string }

// Limits bound a session.
type Limits struct {
	Statement, Message int // bytes
	Sessions           int
	SessionTime, Idle  time.Duration
}

// same reports whether a session that was begun under t may go on under other: it would be connected to the same place as the
// same role, and nothing that it was let in by has been taken back.
func (t *Target) same(other *Target, role, database string) bool {
	return other != nil && t.Address == other.Address && reflect.DeepEqual(t.TLS, other.TLS) && other.has(role, database) &&
		t.Roles[role] == other.Roles[role] && (t.Certificate == "") == (other.Certificate == "")
}

// has reports whether an agent may name them.
func (t *Target) has(role, database string) bool {
	_, known := t.Roles[role]
	return known && (len(t.Databases) == 0 || slices.Contains(t.Databases, database))
}

// listenTLS is how agents' connections are encrypted.
func (t *Target) listenTLS() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errListener, err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{alpn}, SessionTicketsDisabled: true,
	}, nil
}

// errListener says that agents cannot be shown a certificate.
var errListener = errors.New("read the listener's certificate")

// alpn is the protocol's name in TLS: direct TLS must ask for it.
const alpn = "postgresql"

// targetTLS is how the target is spoken to as a role.
func (t *Target) targetTLS(c Credential) (*tls.Config, error) {
	roots, err := keyfile.RootsOrSystem(t.TLS.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read target_tls.ca_file: %w", err)
	}
	conf := &tls.Config{RootCAs: roots, ServerName: t.TLS.Name, MinVersion: tls.VersionTLS12}
	if c.CertificateFile != "" {
		own, err := tls.LoadX509KeyPair(c.CertificateFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the role's certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{own}
	}
	return conf, nil
}
