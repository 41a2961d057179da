package identity

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/strict"
)

const (
	maxToken = 16 << 10 // Envoy takes 60 KiB of headers by default; tokens with hundreds of groups have 8 KiB
	maxDepth = 16       // of JSON in a token
	maxText  = 512      // of a subject, client id or key id, in bytes
)

// token is a credential on its way through the checks. Nothing in it is to be believed before checkSignature.
type token struct {
	raw     string
	header  gate.Object
	claims  gate.Object
	payload []byte

	algorithm, keyID string

	issuer     *issuer
	key        *publicKey
	generation uint64
	expires    time.Time
	principal  *gate.Principal
	tenant     string
}

// parse reads a JWS in compact serialization, strictly: three parts of canonical base64url, the first two JSON objects
// without duplicate names. A second spelling of the same token (padding, spare bits, white space) is not accepted, so
// that a token has one digest.
func parse(raw string) (*token, *Refusal) {
	if raw == "" {
		return nil, &Refusal{Reason: Missing, Detail: "the credential is empty"}
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, malformed("a signed token has 3 parts, this has %d", len(parts))
	}
	t := &token{raw: raw}
	var decoded [3][]byte
	for n, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") { // the decoder skips line ends
			return nil, malformed("part %d is not base64url", n+1)
		}
		decoded[n] = b
	}
	t.payload = decoded[1]
	var err error
	if t.header, err = readObject(decoded[0]); err != nil {
		return nil, malformed("the header cannot be read: %v", err)
	}
	if t.claims, err = readObject(t.payload); err != nil {
		return nil, malformed("the claims cannot be read: %v", err)
	}
	return t, nil
}

func malformed(format string, args ...any) *Refusal {
	return &Refusal{Reason: Malformed, Detail: fmt.Sprintf(format, args...)}
}

// claimed is a claim as text, for a record; "" when it is not text.
func (t *token) claimed(name string) string { return t.claims.Text(name) }

// readObject reads exactly one JSON object. A failure does not quote what it read: the text can be secret.
func readObject(text []byte) (gate.Object, error) {
	o, err := strict.Object(text, maxDepth)
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return nil, fmt.Errorf("a name is there twice at byte %d", syntactic.ByteOffset)
		}
		return nil, fmt.Errorf("not JSON at byte %d", syntactic.ByteOffset)
	}
	return o, err
}

// reader takes typed values from claims. The first that is there with the wrong type is an error, kept until asked for:
// a claim that cannot be read must not pass for one that is absent.
type reader struct {
	claims gate.Object
	err    error
}

func (r *reader) fail(name, want string) {
	if r.err == nil {
		r.err = fmt.Errorf("claim %q is not %s", name, want)
	}
}

// text is a claim that is text without control characters; "" when it is absent.
func (r *reader) text(name string) string {
	v, there := r.claims.Get(name)
	if !there {
		return ""
	}
	s, ok := v.(string)
	if !ok || s == "" || len(s) > maxText || !printable(s) {
		r.fail(name, fmt.Sprintf("text of 1 to %d bytes without control characters", maxText))
		return ""
	}
	return s
}

// need is text that must be there.
func (r *reader) need(name string) string {
	s := r.text(name)
	if s == "" && r.err == nil {
		r.err = fmt.Errorf("there is no claim %q", name)
	}
	return s
}

// object is a claim that is an object; nil when it is absent.
func (r *reader) object(name string) gate.Object {
	v, there := r.claims.Get(name)
	if !there {
		return nil
	}
	o, ok := v.(gate.Object)
	if !ok {
		r.fail(name, "an object")
	}
	return o
}

// list is a claim that is text or a list of texts, named as for find.
func (r *reader) list(name string) []string {
	v, there := lookUp(r.claims, name)
	if !there || v == nil {
		return nil
	}
	list, ok := texts(v)
	if !ok {
		r.fail(name, "text or a list of texts")
	}
	return list
}

// instant is a NumericDate (RFC 7519, section 2); the zero time when it is absent.
func (r *reader) instant(name string) time.Time {
	v, there := r.claims.Get(name)
	if !there {
		return time.Time{}
	}
	n, ok := v.(json.Number)
	f, err := strconv.ParseFloat(string(n), 64)
	if !ok || err != nil || f < 1 || f > 253402300799 { // to the end of the year 9999
		r.fail(name, "a time in seconds since 1970")
		return time.Time{}
	}
	whole, fraction := math.Modf(f)
	return time.Unix(int64(whole), int64(fraction*1e9))
}

func texts(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case []any:
		list := make([]string, len(v))
		for n, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, false
			}
			list[n] = s
		}
		return list, true
	default:
		return nil, false
	}
}

// lookUp finds the claim that a configuration names, see find.
func lookUp(claims gate.Object, name string) (any, bool) {
	steps := find(claims, name)
	var v any = claims
	for _, step := range steps {
		v, _ = v.(gate.Object).Get(step) //nolint:forcetypeassert // find went there
	}
	return v, steps != nil
}

// find returns the members of o, each within the one before, that lead to what a configuration names; nil where that is not there.
// A name is first the exact name of a claim, whatever is in it, then a JSON pointer (RFC 6901), then a path with dots. Where a
// step of the path may end at several dots, the longest that leads on counts.
func find(o gate.Object, name string) []string {
	if hasName(o, name) {
		return []string{name}
	}
	if path, pointer := strings.CutPrefix(name, "/"); pointer {
		step, rest, more := strings.Cut(path, "/")
		if step = unescapePointer.Replace(step); more {
			return within(o, step, "/"+rest)
		} else if hasName(o, step) {
			return []string{step}
		}
		return nil
	}
	for dot := strings.LastIndexByte(name, '.'); dot > 0; dot = strings.LastIndexByte(name[:dot], '.') {
		if steps := within(o, name[:dot], name[dot+1:]); steps != nil {
			return steps
		}
	}
	return nil
}

func within(o gate.Object, step, rest string) []string {
	v, _ := o.Get(step)
	inner, ok := v.(gate.Object)
	if !ok {
		return nil
	}
	if steps := find(inner, rest); steps != nil {
		return append([]string{step}, steps...)
	}
	return nil
}

var unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 || r == 0x2028 || r == 0x2029 }) < 0
}
