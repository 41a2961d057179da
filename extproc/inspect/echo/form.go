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

// Shorter credentials are not looked for, since answers contain such texts by chance. For the password of a Basic credential
// the limit is higher: a person may have chosen a word that answers have.
const (
	shortestSecret   = 8
	shortestPassword = 12
)

// Forms are the texts that a credential may become in an answer, with the table that finds all of them in one pass: the shift
// table of Wu and Manber (1994), which says by two bytes how far away the next match is at least. With the nine forms of a
// token it reads 5 GB/s; a search for each of them would read 0.2 (BenchmarkForms).
type Forms struct {
	value             string
	forms             [][]byte
	shortest, longest int
	shift             [1 << 12]uint8 // by the hash of two bytes; 0 where a form may end its first `shortest` bytes
}

// newForms returns the forms of a header field's value and of more secrets. There are none if all are too short.
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

// Cache keeps the forms of the last credential. It is the same for most operations.
type Cache struct{ last atomic.Pointer[Forms] }

// Forms returns what to look for in an answer: the credential that was sent to the target, and more secrets that the agent
// must not see. It returns nil if there is nothing to look for.
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

// in reports whether text contains one of the forms.
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

// formsOf returns the texts that a target may write when it shows the value of a header field. They are the credential
// without its scheme as it is, as the writers of JSON, HTML and URLs escape it, in hexadecimal, and in the base64 of any text
// that contains it. For a Basic credential the same forms of the decoded text and of the password are added.
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

// base64Within returns the characters that s alone determines in the base64 of a text that contains it at offset modulo 3.
func base64Within(s string, offset int) string {
	text := base64.RawStdEncoding.EncodeToString([]byte("xx"[:offset] + s))
	first := (8*offset + 5) / 6
	return text[first : 8*(offset+len(s))/6]
}

// escape says how one kind of writer escapes a text.
type escape struct {
	bytes  string // the bytes that are escaped; if url, those besides letters and digits that are not
	format string // of an escaped byte
	url    bool
}

// escapes are those of the writers in wide use. None of them escapes letters, digits or the other characters of most tokens.
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

// entities are the characters that every writer of HTML escapes by name.
var entities = map[byte]string{'&': "&amp;", '<': "&lt;", '>': "&gt;"}
