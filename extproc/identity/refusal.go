package identity

import (
	"strings"
	"unicode"
)

// The reasons of a [Refusal]: a closed set.
const (
	Missing      = "missing"          // no credential
	Multiple     = "multiple"         // more than one
	Malformed    = "malformed"        // not a signed JWT that can be read in one way only
	Algorithm    = "algorithm"        // `alg` is not one that the issuer may use
	UnknownParty = "issuer"           // `iss` is not configured
	Unavailable  = "keys-unavailable" // the issuer's keys could not be had, or are too old
	Signature    = "signature"        // no key of the issuer verifies it
	Type         = "type"             // not an access token
	Bound        = "bound"            // bound to a key whose proof cannot be seen here
	Audience     = "audience"         // meant for somebody else
	Expired      = "expired"          //
	NotYet       = "not-yet"          // `nbf` or `iat` is in the future
	Lifetime     = "lifetime"         // valid for longer than allowed
	Claims       = "claims"           // verified, but its claims name no principal
	Tenant       = "tenant"           // of another tenant
	Unregistered = "unregistered"     // not among the issuer's configured subjects
	Revoked      = "revoked"          //
	NotAPerson   = "not-a-person"     // where only people's own tokens are accepted
)

// Refusal says why a credential was not accepted. It holds nothing secret.
type Refusal struct {
	Reason string // one of the constants above
	Detail string // one sentence, fit for the record and for the agent's developer

	// Issuer and Subject are what the token claims, cut to 256 bytes. They are for the record: unless the reason is one
	// that comes after the signature, nobody has vouched for them.
	Issuer, Subject string
}

func (r *Refusal) Error() string { return "credential refused (" + r.Reason + "): " + r.Detail }

// Temporary reports whether the same credential may be accepted later, with nothing wrong in it.
func (r *Refusal) Temporary() bool { return r.Reason == Unavailable || r.Reason == NotYet }

// Challenge is the value of WWW-Authenticate that goes with a 401 (RFC 6750, section 3).
func (r *Refusal) Challenge() string {
	const bearer = `Bearer realm="countersign"`
	switch r.Reason {
	case Missing:
		return bearer // the RFC asks for no error where there was no credential
	case Multiple:
		return bearer + `, error="invalid_request", error_description="` + r.Reason + `"`
	default:
		return bearer + `, error="invalid_token", error_description="` + r.Reason + `"`
	}
}

// excerpt makes text that nobody has vouched for fit for a record.
func excerpt(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
