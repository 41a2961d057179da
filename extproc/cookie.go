package extproc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// Cookies are what becomes of a target's cookies. A session that was opened with the gateway's credential is a credential.
type Cookies string

const (
	RemoveCookies  Cookies = "" // none reaches the agent, and the agent's Cookie does not reach the target
	PassCookies    Cookies = "pass"
	SessionCookies Cookies = "session" // sealed: see cookieBox
)

// cookieBox seals the target's cookies for one agent at one resource. The agent gets what it cannot read, sends it back, and
// the target gets the cookie: the session is usable by this agent, here, and nowhere else, since a sealed cookie says nothing
// to the target, and opens for no other agent, resource or name. Policy, an approval and the card see what the agent sent.
//
// A cookie is AES-256-GCM under a key of its own, made by HKDF of a secret in the data directory and 16 random bytes, over
// the resource, the issuer, the subject and the cookie's name. Its length is made a multiple of cookieBlock.
type cookieBox struct {
	secret []byte
	scope  []string
}

const (
	cookiePrefix = "cs1."
	cookieBlock  = 64
	cookieSalt   = 16

	// shortestCookie is the shortest value that is looked for in answers, as a credential is: shorter ones are seldom secret,
	// and words that answers have.
	shortestCookie = 16
)

func (a *attempt) cookieBox() cookieBox {
	return cookieBox{a.http.CookieKey, []string{a.Resource.Name, a.Op.Principal.Issuer, a.Op.Principal.Subject}}
}

// aead is for one cookie: the key is used once, so that the nonce may be zero.
func (b cookieBox) aead(salt []byte) (cipher.AEAD, error) {
	if len(b.secret) < 16 {
		return nil, fmt.Errorf("the secret of cookies has %d bytes", len(b.secret))
	}
	key, err := hkdf.Key(sha256.New, b.secret, salt, "countersign session cookie", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// bound is what a cookie of that name opens for: each part behind its length.
func (b cookieBox) bound(name string) []byte {
	var data []byte
	for _, part := range append(slices.Clip(b.scope), name) {
		data = append(binary.BigEndian.AppendUint32(data, uint32(len(part))), part...)
	}
	return data
}

var zeroNonce [12]byte

func (b cookieBox) seal(name, value string) (string, error) {
	salt := make([]byte, cookieSalt)
	rand.Read(salt) // never fails
	aead, err := b.aead(salt)
	if err != nil {
		return "", fmt.Errorf("seal a cookie: %w", err)
	}
	plain := append([]byte(value), 0x80) // and zeros: what follows the last 0x80 is no part of it
	plain = append(plain, make([]byte, (cookieBlock-len(plain)%cookieBlock)%cookieBlock)...)
	return cookiePrefix + base64.RawURLEncoding.EncodeToString(aead.Seal(salt, zeroNonce[:], plain, b.bound(name))), nil
}

// open is false for what was not sealed for this agent, this resource and this name.
func (b cookieBox) open(name, sealed string) (string, bool) {
	text, ok := strings.CutPrefix(sealed, cookiePrefix)
	if !ok {
		return "", false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < cookieSalt {
		return "", false
	}
	aead, err := b.aead(raw[:cookieSalt])
	if err != nil {
		return "", false
	}
	plain, err := aead.Open(nil, zeroNonce[:], raw[cookieSalt:], b.bound(name))
	if err != nil {
		return "", false
	}
	return strings.CutSuffix(strings.TrimRight(string(plain), "\x00"), "\x80")
}

// openCookies opens what the agent sent, for the target. It is before policy is asked: what cannot be opened is no cookie of
// this agent's, and to leave it out would make another request of this one.
func (a *attempt) openCookies(r *web.Request) error {
	value, _ := r.Headers.Get("cookie")
	fields, _ := value.([]string)
	if a.http.Cookies != SessionCookies || len(fields) == 0 {
		return nil
	}
	box := a.cookieBox()
	var opened []string
	for pair := range strings.SplitSeq(strings.Join(fields, ";"), ";") {
		if pair = strings.Trim(pair, " \t"); pair == "" {
			continue
		}
		name, sealed, _ := strings.Cut(pair, "=")
		v, ok := box.open(name, sealed)
		if !ok {
			return &web.Error{Problem: gate.Unreadable, Detail: fmt.Sprintf("The request has a cookie %q that this gateway did not give to this agent for this resource, so it was refused. Nothing was done. Leave it out, and begin a session at the target again if one is needed.", name)}
		}
		opened = append(opened, name+"="+v)
		a.secrets = append(a.secrets, v)
	}
	a.cookie = strings.Join(opened, "; ")
	return nil
}

// cookies decides what becomes of the cookies among the fields of an answer's head.
func (x *exchange) cookies(fields []web.Field, m *ext.HeaderMutation) {
	mode := x.attempt.http.Cookies
	if mode == PassCookies {
		return // under a plan it is a field like others that are searched
	}
	removed := false
	for _, f := range fields {
		if f.Name != "set-cookie" && f.Name != "set-cookie2" {
			continue
		}
		if !removed {
			m.RemoveHeaders = append(m.RemoveHeaders, "set-cookie", "set-cookie2")
			removed = true
		}
		if mode != SessionCookies || f.Name != "set-cookie" {
			continue
		}
		if sealed, err := x.attempt.sealCookie(f.Value); err != nil {
			x.server.lane.Log.Error("a cookie of the target was removed", "resource", x.attempt.Resource.Name, "error", err)
		} else if sealed != "" {
			m.SetHeaders = append(m.SetHeaders, addField("set-cookie", sealed))
		}
	}
}

// sealCookie writes a Set-Cookie for the agent. It keeps how long the cookie lives and where it goes on this host, and neither
// a domain, which would be the target's, nor what is not known. It is empty for what is no cookie.
func (a *attempt) sealCookie(field string) (string, error) {
	name, value, attributes, ok := readSetCookie(field)
	if !ok {
		return "", nil
	}
	sealed, err := a.cookieBox().seal(name, value)
	if err != nil {
		return "", err
	}
	out := name + "=" + sealed
	path := a.Op.Target
	for _, attribute := range attributes {
		key, v, _ := strings.Cut(attribute, "=")
		switch key, v = strings.ToLower(strings.Trim(key, " \t")), strings.Trim(v, " \t"); {
		case key == "path" && strings.HasPrefix(path, v): // another could say something of the body
			out += "; Path=" + v
		case key == "max-age" && len(v) <= 12 && strings.Trim(v, "-0123456789") == "":
			out += "; Max-Age=" + v
		case key == "expires" && len(v) <= len("Wednesday, 01-Jan-2035 00:00:00 GMT"):
			out += "; Expires=" + v
		case key == "samesite" && slices.Contains([]string{"strict", "lax", "none"}, strings.ToLower(v)):
			out += "; SameSite=" + v
		case key == "httponly":
			out += "; HttpOnly"
		case key == "secure" && a.http.SecureCookies:
			out += "; Secure"
		}
	}
	return out, nil
}

// readSetCookie reads a Set-Cookie (RFC 6265, section 5.2).
func readSetCookie(field string) (name, value string, attributes []string, ok bool) {
	parts := strings.Split(field, ";")
	name, value, ok = strings.Cut(parts[0], "=")
	name, value = strings.Trim(name, " \t"), strings.Trim(value, " \t")
	return name, value, parts[1:], ok && name != "" && !strings.ContainsAny(name, " \t,\"")
}

// cookieSecrets are the values of cookies that must not come back in an answer, beside the target's credential: those that
// the agent's request opened, and those that the answer sets.
func (a *attempt) cookieSecrets(fields []web.Field) []string {
	if a.http.Cookies != SessionCookies {
		return nil
	}
	list := slices.Clone(a.secrets)
	for _, f := range fields {
		if f.Name == "set-cookie" {
			_, value, _, _ := readSetCookie(f.Value)
			list = append(list, value)
		}
	}
	return slices.DeleteFunc(list, func(v string) bool { return len(v) < shortestCookie })
}
