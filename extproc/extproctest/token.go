package extproctest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Claims are the claims of a token. A nil value leaves out a claim that would be there by default.
type Claims map[string]any

// Token signs a token with claims of any shape: actor chains, other vendors' names, mistakes. What claims does not say is
// as in a good access token of agent-1: iss, sub, aud, client_id, iat, nbf, exp, jti.
func (i *Issuer) Token(claims Claims) string {
	i.tb.Helper()
	return i.Mint(Mint{Claims: claims})
}

// Mint is how to make a token that is wrong in its header or signature.
type Mint struct {
	Claims    Claims                  // as for [Issuer.Token]
	Type      string                  // the typ of the header; "JWT", as zitadel/oidc has it, unless set
	Header    map[string]any          // more of the header; not alg
	KeyID     string                  // the issuer's current one unless set
	Algorithm jose.SignatureAlgorithm // the issuer's unless set; "none" makes an unsigned token
	Key       any                     // the issuer's current one unless set: a private key, or []byte for HMAC
}

// Mint signs a token as m says.
func (i *Issuer) Mint(m Mint) string {
	i.tb.Helper()
	current := i.storage.currentKey()
	if m.Type == "" {
		m.Type = "JWT"
	}
	if m.KeyID == "" {
		m.KeyID = current.id
	}
	if m.Algorithm == "" {
		m.Algorithm = current.algorithm
	}
	if m.Key == nil {
		m.Key = current.private
	}
	payload, err := json.Marshal(i.complete(m.Claims))
	if err != nil {
		i.tb.Fatalf("encode claims: %v", err)
	}
	if m.Algorithm == "none" {
		header, _ := json.Marshal(map[string]any{"alg": "none", "typ": m.Type, "kid": m.KeyID})
		return base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
	}
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(m.Type))
	for name, value := range m.Header {
		options = options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: m.Algorithm, Key: jose.JSONWebKey{Key: m.Key, KeyID: m.KeyID},
	}, options)
	if err != nil {
		i.tb.Fatalf("make a signer for %s: %v", m.Algorithm, err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		i.tb.Fatalf("sign a token: %v", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		i.tb.Fatalf("encode a token: %v", err)
	}
	return token
}

func (i *Issuer) complete(claims Claims) Claims {
	now := time.Now()
	all := Claims{
		"iss": i.URL, "sub": "agent-1", "aud": []string{Audience}, "client_id": "agent-1",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
	}
	for name, value := range claims {
		all[name] = value
		if value == nil {
			delete(all, name)
		}
	}
	return all
}
