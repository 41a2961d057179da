package session

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/secure/precis"
)

// The mechanisms of SCRAM (RFC 5802, 7677) that PostgreSQL has.
const (
	scramPlain = "SCRAM-SHA-256"
	scramBound = "SCRAM-SHA-256-PLUS" // to the server's certificate (tls-server-end-point, RFC 5929)
)

// mostIterations bounds the work that a server can have us do.
const mostIterations = 1 << 20

// scram is the client's end of one exchange.
type scram struct {
	mechanism string
	password  string
	gs2       string // header that says whether, and how, the exchange is bound
	binding   []byte
	first     string // client-first-message-bare
	auth      string // AuthMessage, once the server has answered
	salted    []byte
}

// newScram chooses the mechanism: bound to the channel wherever the server can. c is nil for a plain connection.
func newScram(offered []string, password string, c *tls.ConnectionState) (*scram, error) {
	s := &scram{mechanism: scramPlain, gs2: "n,,"}
	var err error
	if s.password, err = precis.OpaqueString.String(password); err != nil {
		s.password = password // RFC 5802 has SASLprep; PostgreSQL takes what it does not know as it is
	}
	bound := slices.Contains(offered, scramBound)
	switch {
	case c != nil && bound:
		s.mechanism, s.gs2 = scramBound, "p=tls-server-end-point,,"
		if s.binding, err = endPoint(c); err != nil {
			return nil, err
		}
	case c != nil:
		s.gs2 = "y,," // a server that can bind, and hears this, knows that somebody has taken the other mechanism out
	}
	if !slices.Contains(offered, s.mechanism) {
		return nil, fmt.Errorf("the server offers %q, and %s is what is spoken here", offered, scramPlain)
	}
	nonce := make([]byte, 18)
	rand.Read(nonce)
	s.first = "n=,r=" + base64.StdEncoding.EncodeToString(nonce)
	return s, nil
}

// endPoint is the hash of the server's certificate, by the hash of its own signature; MD5 and SHA-1 are taken for SHA-256.
func endPoint(c *tls.ConnectionState) ([]byte, error) {
	if len(c.PeerCertificates) == 0 {
		return nil, errors.New("the server has shown no certificate to bind to")
	}
	leaf := c.PeerCertificates[0]
	var h hash.Hash
	switch leaf.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		h = sha512.New384()
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		h = sha512.New()
	case x509.PureEd25519, x509.UnknownSignatureAlgorithm:
		return nil, fmt.Errorf("the server's certificate is signed by %v, for which no channel binding is defined", leaf.SignatureAlgorithm)
	default:
		h = sha256.New()
	}
	h.Write(leaf.Raw)
	return h.Sum(nil), nil
}

// clientFirst is the first message.
func (s *scram) clientFirst() []byte { return []byte(s.gs2 + s.first) }

// clientFinal answers the server's first message.
func (s *scram) clientFinal(server []byte) ([]byte, error) {
	var nonce, salt, count string
	for i, part := range strings.Split(string(server), ",") {
		name, value, _ := strings.Cut(part, "=")
		switch {
		case i == 0 && name == "r":
			nonce = value
		case i == 1 && name == "s":
			salt = value
		case i == 2 && name == "i":
			count = value
		}
	}
	own := strings.TrimPrefix(s.first, "n=,r=")
	if !strings.HasPrefix(nonce, own) || len(nonce) <= len(own) {
		return nil, errors.New("the server's nonce does not go on from ours")
	}
	rawSalt, err := base64.StdEncoding.DecodeString(salt)
	if err != nil || len(rawSalt) == 0 {
		return nil, errors.New("the server's salt cannot be read")
	}
	iterations, err := strconv.Atoi(count)
	if err != nil || iterations < 1 || iterations > mostIterations {
		return nil, fmt.Errorf("the server wants %.20q iterations", count)
	}
	if s.salted, err = pbkdf2.Key(sha256.New, s.password, rawSalt, iterations, sha256.Size); err != nil {
		return nil, err
	}
	final := "c=" + base64.StdEncoding.EncodeToString(append([]byte(s.gs2), s.binding...)) + ",r=" + nonce
	s.auth = s.first + "," + string(server) + "," + final
	clientKey := mac(s.salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	proof := mac(stored[:], s.auth)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	return []byte(final + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

// verify holds the server to knowing the password too.
func (s *scram) verify(server []byte) error {
	value, ok := strings.CutPrefix(string(server), "v=")
	got, err := base64.StdEncoding.DecodeString(value)
	if !ok || err != nil || s.salted == nil || !hmac.Equal(got, mac(mac(s.salted, "Server Key"), s.auth)) {
		return errors.New("the server has not proved that it knows the password")
	}
	return nil
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
