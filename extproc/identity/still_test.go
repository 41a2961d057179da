package identity

import (
	"errors"
	"testing"
)

// TestStill asks the verifiers that a reload could make about a principal that was verified before it.
func TestStill(t *testing.T) {
	a, c := newAuthority(t), newClock()
	token := sign(t, standard, with(good(a, c), object{"tid": "tenant-1", "jti": "token-1", "act": object{"sub": "agent-7"}}), keyRSA())
	p, err := verifier(t, a, c).Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*Issuer)
		want   string
	}{
		{"nothing", func(*Issuer) {}, ""},
		{"its subject is revoked", func(i *Issuer) { i.Revoked = []string{"agent-7"} }, Revoked},
		{"the person acted for is revoked", func(i *Issuer) { i.Revoked = []string{p.OnBehalfOf.Subject} }, Revoked},
		{"its client is revoked", func(i *Issuer) { i.Revoked = []string{p.ClientID} }, Revoked},
		{"its token is revoked", func(i *Issuer) { i.Revoked = []string{"token-1"} }, Revoked},
		{"its token is revoked by its digest", func(i *Issuer) { i.Revoked = []string{signedDigest(token)} }, Revoked},
		{"another is revoked", func(i *Issuer) { i.Revoked = []string{"agent-8"} }, ""},
		{"others are registered", func(i *Issuer) { i.Subjects = []string{"agent-8"} }, Unregistered},
		{"it is registered", func(i *Issuer) { i.Subjects = []string{"agent-7"} }, ""},
		{"other tenants are accepted", func(i *Issuer) { i.Tenants = []string{"tenant-2"} }, Tenant},
		{"its tenant is accepted", func(i *Issuer) { i.Tenants = []string{"tenant-1"} }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var refusal *Refusal
			err := verifier(t, a, c, tc.change).Still(p)
			if errors.As(err, &refusal); tc.want == "" && err != nil || tc.want != "" && (refusal == nil || refusal.Reason != tc.want) {
				t.Errorf("it says %v, and should say %q", err, tc.want)
			}
		})
	}
	other := newAuthority(t)
	if err := verifier(t, other, c).Still(p); err == nil {
		t.Error("another issuer has it")
	}
	if err := (*Verifier)(nil).Still(p); err == nil {
		t.Error("nobody has it")
	}
	if err := verifier(t, a, c).Still(nil); err == nil {
		t.Error("it has nobody")
	}
}
