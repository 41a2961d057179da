package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/keyfile"
)

// certifier is an issuer of kind mtls: it vouches for agents by certificates, and has no tokens.
type certifier struct {
	issuer
	roots  *x509.CertPool
	agents map[string]string // by what subjectOf makes of the subjects that are configured
}

func newCertifier(c Issuer) (*certifier, error) {
	fail := func(format string, args ...any) (*certifier, error) {
		return nil, fmt.Errorf("issuer %q: %s", c.Issuer, fmt.Sprintf(format, args...))
	}
	roots, err := keyfile.Roots(c.CAFile)
	if err != nil {
		return fail("ca_file: %v", err)
	}
	a := &certifier{issuer{Issuer: c, name: c.Issuer}, roots, map[string]string{}}
	for text, agent := range c.Certificates {
		subject, err := subjectOf(text)
		if err != nil {
			return fail("certificates: %v", err)
		}
		if a.agents[subject] != "" {
			return fail("certificates: %q is there twice", text)
		}
		a.agents[subject] = agent
	}
	if domain, ok := strings.CutPrefix(c.Issuer, "spiffe://"); ok {
		if known, path, valid := cutSPIFFE(c.Issuer); !valid || path != "" || known != domain {
			return fail("is not spiffe://TRUST-DOMAIN")
		}
		if len(c.Certificates) > 0 {
			return fail("names certificates, and its agents are known by their SPIFFE ids: leave certificates out")
		}
	} else if len(c.Certificates) == 0 {
		return fail("names no certificates, and is no spiffe://TRUST-DOMAIN: nobody could be told by a certificate of it")
	}
	return a, nil
}

// VerifyCertificate returns the principal that a client's certificate is for. Whoever calls has seen the client prove that it has
// the certificate's key. The certificate must be signed by an authority itself: intermediate certificates are not seen here, and
// belong into the file of roots. Every error is a *Refusal.
func (v *Verifier) VerifyCertificate(leaf *x509.Certificate) (*gate.Principal, error) {
	if v == nil || len(v.certifiers) == 0 {
		return nil, &Refusal{Reason: UnknownParty, Detail: "no issuer of certificates (kind mtls) is configured"}
	}
	refusal := &Refusal{Reason: UnknownParty, Detail: "no configured authority has signed the certificate"}
	for _, a := range v.certifiers {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, CurrentTime: v.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if invalid, ok := err.(x509.CertificateInvalidError); ok && invalid.Reason == x509.Expired { //nolint:errorlint // as Verify documents
			refusal = &Refusal{Reason: Expired, Detail: "the certificate's time is over, or has not come"}
		}
		if err != nil {
			continue
		}
		p, why := a.principal(leaf)
		if why == nil {
			why = a.has(p)
		}
		if why == nil {
			return p, nil
		}
		refusal = why
	}
	refusal.Issuer, refusal.Subject = excerpt(leaf.Issuer.String()), excerpt(written(leaf))
	return nil, refusal
}

// written is the subject of a certificate, all of it, in the words of RFC 4514. The one that package x509 makes leaves out a
// common name where there is a second one.
func written(leaf *x509.Certificate) string {
	var names pkix.RDNSequence
	if rest, err := asn1.Unmarshal(leaf.RawSubject, &names); err != nil || len(rest) > 0 {
		return ""
	}
	return names.String()
}

// attribute is a name of a subject, as package pkix writes it: with a name that RFC 4514 has for its type, or in numbers.
var attribute = regexp.MustCompile(`^((?:CN|O|OU|L|ST|C|STREET|POSTALCODE|SERIALNUMBER)=.+|[0-2](?:\.[0-9]+)+=#[0-9a-f]+)$`)

// hexadecimal is how others write what package pkix writes as it is.
var hexadecimal = regexp.MustCompile(`\\[0-9A-Fa-f]`)

// subjectOf is a subject in the words of RFC 4514 with its names in one order: tools differ in which comes first, and in whether
// two of a type are one name.
func subjectOf(text string) (string, error) {
	var names []string
	from, escaped := 0, false
	for i := 0; i <= len(text); i++ {
		if i < len(text) && (escaped || text[i] != ',' && text[i] != '+') {
			escaped = text[i] == '\\' && !escaped
			continue
		}
		name := text[from:i]
		if !attribute.MatchString(name) || hexadecimal.MatchString(name) {
			return "", fmt.Errorf("%q is not a certificate's subject, by %q: write it as openssl x509 -noout -subject -nameopt RFC2253,-esc_msb does, and what that calls by other names as the record of a refusal has it (identity.refused)", text, name)
		}
		names, from = append(names, name), i+1
	}
	slices.Sort(names)
	return strings.Join(names, ","), nil
}

// still reports whether the certificate that p was known by is still that of p.
func (a *certifier) still(p *gate.Principal) *Refusal {
	text := p.Claims.Text("subject")
	if len(a.agents) > 0 && a.agentOf(text) != p.Subject {
		return &Refusal{Reason: Unregistered, Detail: fmt.Sprintf("the certificate's subject %q is not that of %q any more", excerpt(text), excerpt(p.Subject))}
	}
	return a.has(p)
}

// agentOf is whose the certificate of that subject is; empty where it is nobody's.
func (a *certifier) agentOf(subject string) string {
	key, err := subjectOf(subject)
	if err != nil {
		return ""
	}
	return a.agents[key]
}

// principal reads who a verified certificate is for: its SPIFFE id (X509-SVID, section 2: the one URI that it has), or what the
// configuration calls its subject.
func (a *certifier) principal(leaf *x509.Certificate) (*gate.Principal, *Refusal) {
	digest := sha256.Sum256(leaf.Raw)
	p := &gate.Principal{Issuer: a.name, Kind: "workload"}
	p.Verified = gate.Verification{
		Method: "mtls", Algorithm: leaf.SignatureAlgorithm.String(), KeyID: hex.EncodeToString(leaf.AuthorityKeyId),
		TokenID: hex.EncodeToString(digest[:]), Digest: hex.EncodeToString(digest[:]), Expires: leaf.NotAfter, Accepted: leaf.NotAfter,
	}
	if strings.HasPrefix(a.name, "spiffe://") {
		if len(leaf.URIs) != 1 {
			return nil, &Refusal{Reason: Claims, Detail: fmt.Sprintf("the certificate has %d URIs, and a SPIFFE certificate has one", len(leaf.URIs))}
		}
		domain, path, ok := cutSPIFFE(leaf.URIs[0].String())
		if !ok || path == "" || "spiffe://"+domain != a.name {
			return nil, &Refusal{Reason: Tenant, Detail: fmt.Sprintf("%q is not the SPIFFE id of a workload of %s", excerpt(leaf.URIs[0].String()), a.name)}
		}
		p.Subject, p.Verified.Tenant = leaf.URIs[0].String(), domain
	} else if p.Subject = a.agentOf(written(leaf)); p.Subject == "" {
		return nil, &Refusal{Reason: Unregistered, Detail: fmt.Sprintf("no agent is configured for the certificate's subject %q", excerpt(written(leaf)))}
	}
	uris := make([]string, len(leaf.URIs))
	for i, u := range leaf.URIs {
		uris[i] = u.String()
	}
	p.Claims = gate.Object{ // less what changes when the certificate is renewed
		{Name: "dns_names", Value: slices.Clone(leaf.DNSNames)},
		{Name: "subject", Value: written(leaf)},
		{Name: "uris", Value: uris},
	}
	if leaf.DNSNames == nil {
		p.Claims[0].Value = []string{}
	}
	return p, nil
}
