package echo

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// shortestSecret is the shortest credential that is looked for in answers. A shorter one stands in them by chance.
// shortestPassword is that for the password of a Basic credential: a person may have chosen a word that answers have.
const (
	shortestSecret   = 8
	shortestPassword = 12
)

// Forms are the texts in which a credential may stand in an answer, and what finds all of them in one pass over a text: the shift
// table of Wu and Manber (1994), which looks at two bytes and says how far the next occurrence is at least. With the nine forms of
// a token it reads 5 GB/s; a search for each would read 0.2 (BenchmarkForms).
type Forms struct {
	value             string
	forms             [][]byte
	shortest, longest int
	shift             [1 << 12]uint8 // by the hash of two bytes; 0 where a form may end its first `shortest` bytes
}

// NewForms returns the forms of a header field's value, and of more secrets. There are none where all are too short to look for.
func newForms(value string, more ...string) *Forms {
	n := &Forms{value: value, forms: formsOf(value)}
	for _, secret := range more {
		n.forms = append(n.forms, formsOf(secret)...)
	}
	if len(n.forms) == 0 {
		return n
	}
	n.shortest = len(n.forms[0])
	for _, f := range n.forms {
		n.shortest, n.longest = min(n.shortest, len(f)), max(n.longest, len(f))
	}
	n.shortest = min(n.shortest, 256)
	for i := range n.shift {
		n.shift[i] = uint8(n.shortest - 1)
	}
	for _, f := range n.forms {
		for i := 1; i < n.shortest; i++ {
			at := &n.shift[pair(f[i-1], f[i])]
			*at = min(*at, uint8(n.shortest-1-i))
		}
	}
	return n
}

// Cache keeps the forms of the credential that was sent last: it is the same for most operations.
type Cache struct{ last atomic.Pointer[Forms] }

// Forms are what to look for in an answer, where credential was sent to the target, and more secrets that the agent must not see.
// It returns nil where there is nothing to look for.
func (c *Cache) Forms(credential string, more []string) *Forms {
	if len(more) > 0 {
		return newForms(credential, more...)
	}
	if credential == "" {
		return nil
	}
	f := c.last.Load()
	if f == nil || f.value != credential {
		f = newForms(credential)
		c.last.Store(f)
	}
	return f
}

func pair(a, b byte) uint16 { return (uint16(a)<<4 ^ uint16(b)) & 0xFFF }

// in reports whether text has one of the forms.
func (n *Forms) in(text []byte) bool {
	for i := n.shortest - 1; i < len(text); {
		if s := n.shift[pair(text[i-1], text[i])]; s > 0 {
			i += int(s)
			continue
		}
		for _, f := range n.forms {
			if bytes.HasPrefix(text[i-n.shortest+1:], f) {
				return true
			}
		}
		i++
	}
	return false
}

// formsOf are the ways in which a target that shows the value of a header field without thought may write it: the
// credential behind its scheme as it stands, as the writers of JSON, HTML and URLs escape it, in hexadecimal, and as it
// comes out in base64 of any text that has it. Of a Basic credential, also what it is the base64 of, and the password.
func formsOf(value string) [][]byte {
	scheme, secret, ok := strings.Cut(value, " ")
	if secret = strings.TrimSpace(secret); !ok || len(secret) < len(scheme) {
		scheme, secret = "", value
	}
	secrets := []string{secret}
	if decoded, err := base64.StdEncoding.DecodeString(secret); err == nil && strings.EqualFold(scheme, "Basic") {
		secrets = append(secrets, string(decoded))
		if _, password, _ := strings.Cut(string(decoded), ":"); len(password) >= shortestPassword {
			secrets = append(secrets, password)
		}
	}
	var forms [][]byte
	for _, s := range secrets {
		if len(s) < shortestSecret {
			continue
		}
		forms = append(forms, []byte(s))
		for _, e := range escapes {
			forms = append(forms, []byte(e.write(s)))
		}
		forms = append(forms, []byte(hex.EncodeToString([]byte(s))), []byte(strings.ToUpper(hex.EncodeToString([]byte(s)))))
		for offset := range 3 {
			inner := base64Within(s, offset)
			forms = append(forms, []byte(inner), []byte(strings.NewReplacer("+", "-", "/", "_").Replace(inner)))
		}
	}
	slices.SortFunc(forms, bytes.Compare)
	return slices.CompactFunc(forms, bytes.Equal)
}

// base64Within are the characters that s alone makes in the base64 of a text in which it stands offset bytes, modulo three,
// from the beginning.
func base64Within(s string, offset int) string {
	text := base64.RawStdEncoding.EncodeToString([]byte("xx"[:offset] + s))
	first := (8*offset + 5) / 6
	return text[first : 8*(offset+len(s))/6]
}

// escape is how one kind of writer replaces what it does not write as it is.
type escape struct {
	bytes  string // that are replaced; of URLs, those that are not
	format string // of a byte
	url    bool
}

// escapes are those of the writers that are in wide use. Letters, digits and what else is in most tokens are the same in all
// of them.
var escapes = []escape{
	{`"\`, `\%c`, false},                     // JSON as it must be
	{`"\/`, `\%c`, false},                    // PHP
	{`<>&`, `\u%04x`, false},                 // Go
	{`<>&='`, `\u%04x`, false},               // Gson
	{"\"&'+<>`", `\u%04X`, false},            // .NET
	{`&<>'"`, `&#%d;`, false},                // HTML by Go and Jinja
	{`&<>'"+`, `&#%d;`, false},               // Go's templates
	{`&<>'"`, `&#x%X;`, false},               // Python
	{"&<>'\"=`", `&#x%X;`, false},            // Handlebars
	{"-._~", `%%%02X`, true},                 // a query or a form, and a part of a path
	{"-._~", `%%%02x`, true},                 //
	{"-._~/", `%%%02X`, true},                // a path
	{"-._~$&+=:@", `%%%02X`, true},           // a part of a path by Go
	{"-_.!~*'()", `%%%02X`, true},            // JavaScript
	{"-_.!~*'();/?:@&=+$,#", `%%%02X`, true}, // a whole URL
}

func (e escape) write(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		listed := strings.IndexByte(e.bytes, c) >= 0
		plain := c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		switch {
		case listed && strings.HasPrefix(e.format, "&#") && entities[c] != "":
			b.WriteString(entities[c])
		case listed && c == '"' && strings.HasPrefix(e.format, "&#x"):
			b.WriteString("&quot;")
		case !e.url && listed, e.url && !listed && !plain:
			fmt.Fprintf(&b, e.format, c)
		case !e.url && (c == '"' || c == '\\') && strings.HasPrefix(e.format, `\u`):
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// entities have a name with every writer of HTML.
var entities = map[byte]string{'&': "&amp;", '<': "&lt;", '>': "&gt;"}
