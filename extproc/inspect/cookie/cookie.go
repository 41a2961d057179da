// Package cookie keeps a target's cookies from agents: a session that was opened with the gateway's credential is itself a
// credential.
package cookie

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
)

// Mode says what is done with a target's cookies.
type Mode string

const (
	Remove  Mode = ""        // none reaches the agent, and the agent's Cookie does not reach the target
	Pass    Mode = "pass"    // both pass as they are
	Session Mode = "session" // the agent gets them sealed: see Box
)

// Box seals the target's cookies for one agent at one resource. The agent gets a sealed cookie, which it cannot read, and
// sends it back; the target gets the cookie itself. The target does not understand a sealed cookie, and no box of another
// agent or resource opens it, so the session is of use here only. Policy, approvals and cards see the sealed cookie.
//
// A cookie is sealed with AES-256-GCM. Its key is made by HKDF from a secret in the data directory and 16 random bytes; the
// additional data is the resource, the issuer, the subject and the cookie's name. It is padded to a multiple of blockSize.
type Box struct {
	secret []byte
	scope  []string
}

const (
	prefix    = "cs1."
	blockSize = 64
	saltSize  = 16

	// shortest is the shortest value that answers are searched for. Shorter ones are seldom secret, and often words that
	// answers have anyway.
	shortest = 16
)

// NewBox returns the box of one agent at one resource. With a secret of less than 16 bytes it seals and opens nothing.
func NewBox(secret []byte, resource, issuer, subject string) Box {
	return Box{secret, []string{resource, issuer, subject}}
}

// aead returns the cipher for one cookie. Each key is used once, so the nonce may be zero.
func (b Box) aead(salt []byte) (cipher.AEAD, error) {
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

// bound returns the additional data for a cookie of that name. Each part follows its length, so that parts cannot run together.
func (b Box) bound(name string) []byte {
	var data []byte
	for _, part := range append(slices.Clip(b.scope), name) {
		data = append(binary.BigEndian.AppendUint32(data, uint32(len(part))), part...)
	}
	return data
}

var zeroNonce [12]byte

func (b Box) seal(name, value string) (string, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails
	aead, err := b.aead(salt)
	if err != nil {
		return "", fmt.Errorf("seal a cookie: %w", err)
	}
	plain := append([]byte(value), 0x80) // padding: 0x80, then zeros
	plain = append(plain, make([]byte, (blockSize-len(plain)%blockSize)%blockSize)...)
	return prefix + base64.RawURLEncoding.EncodeToString(aead.Seal(salt, zeroNonce[:], plain, b.bound(name))), nil
}

// open opens a sealed cookie. ok is false if it was not sealed for this agent, this resource and this name.
func (b Box) open(name, sealed string) (value string, ok bool) {
	text, ok := strings.CutPrefix(sealed, prefix)
	if !ok {
		return "", false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < saltSize {
		return "", false
	}
	aead, err := b.aead(raw[:saltSize])
	if err != nil {
		return "", false
	}
	plain, err := aead.Open(nil, zeroNonce[:], raw[saltSize:], b.bound(name))
	if err != nil {
		return "", false
	}
	return strings.CutSuffix(strings.TrimRight(string(plain), "\x00"), "\x80")
}

// Unknown is the error for an agent's cookie that does not open.
type Unknown struct{ Name string }

func (e *Unknown) Error() string {
	return fmt.Sprintf("the cookie %q was not sealed for this agent and resource", e.Name)
}

// Open opens the Cookie fields that an agent sent. It returns the field for the target, and the values in it. A cookie that
// cannot be opened is an error ([Unknown]): without it the request would be another one.
func (b Box) Open(fields []string) (opened string, values []string, err error) {
	var pairs []string
	for pair := range strings.SplitSeq(strings.Join(fields, ";"), ";") {
		if pair = strings.Trim(pair, " \t"); pair == "" {
			continue
		}
		name, sealed, _ := strings.Cut(pair, "=")
		v, ok := b.open(name, sealed)
		if !ok {
			return "", nil, &Unknown{name}
		}
		pairs, values = append(pairs, name+"="+v), append(values, v)
	}
	return strings.Join(pairs, "; "), values, nil
}

// Seal seals a target's Set-Cookie field for the agent whose request was for path. It keeps the known attributes but Domain,
// which names the target's host. secure says that the agent connects over TLS: otherwise it would not send back a cookie that
// is Secure, so that attribute is dropped. It returns "" if the field is no cookie.
func (b Box) Seal(field, path string, secure bool) (string, error) {
	name, value, attributes, ok := readSetCookie(field)
	if !ok {
		return "", nil
	}
	sealed, err := b.seal(name, value)
	if err != nil {
		return "", err
	}
	out := name + "=" + sealed
	for _, attribute := range attributes {
		key, v, _ := strings.Cut(attribute, "=")
		switch key, v = strings.ToLower(strings.Trim(key, " \t")), strings.Trim(v, " \t"); {
		case key == "path" && strings.HasPrefix(path, v): // any other path could carry a value of the body
			out += "; Path=" + v
		case key == "max-age" && len(v) <= 12 && strings.Trim(v, "-0123456789") == "":
			out += "; Max-Age=" + v
		case key == "expires" && len(v) <= len("Wednesday, 01-Jan-2035 00:00:00 GMT"):
			out += "; Expires=" + v
		case key == "samesite" && slices.Contains([]string{"strict", "lax", "none"}, strings.ToLower(v)):
			out += "; SameSite=" + v
		case key == "httponly":
			out += "; HttpOnly"
		case key == "secure" && secure:
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

// Secrets returns the values that the answer must not show: opened, which the target got, and the values of the answer's own
// Set-Cookie fields.
func Secrets(opened, setCookies []string) []string {
	list := slices.Clone(opened)
	for _, f := range setCookies {
		_, value, _, _ := readSetCookie(f)
		list = append(list, value)
	}
	return slices.DeleteFunc(list, func(v string) bool { return len(v) < shortest })
}
