package web

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
)

// target reads the request-target: path and query.
func (i *Inspector) target() error {
	r := &i.request
	for j := 0; j < len(r.Target); j++ {
		if c := r.Target[j]; c <= ' ' || c >= 0x7F {
			return unreadable("The request's path has a byte (0x%02X) that must be percent-encoded.", c)
		}
	}
	if r.Target == "*" && r.Method == "OPTIONS" {
		r.Path, r.Segments = "*", []string{}
		return nil
	}
	if !strings.HasPrefix(r.Target, "/") {
		return unreadable("The request's path does not begin with a slash.")
	}
	if strings.Contains(r.Target, "#") {
		return unreadable("The request's path has a fragment (#), which is not sent to servers. Leave it out, or write %%23.")
	}
	path, query, _ := strings.Cut(r.Target, "?")
	r.Path = path
	segments, err := i.segments(path)
	if err != nil {
		return err
	}
	r.Segments = segments
	r.Query, err = i.pairs(query, "query")
	return err
}

// segments splits a path, decodes each segment once and refuses what two servers could read differently. A slash at the end
// adds no segment, so that a rule about segments holds with and without it.
func (i *Inspector) segments(path string) ([]string, error) {
	raw := strings.Split(path[1:], "/")
	if raw[len(raw)-1] == "" {
		raw = raw[:len(raw)-1]
	}
	segments := make([]string, len(raw))
	for n, part := range raw {
		s, err := decodeOnce(part, false)
		if err == nil {
			err = i.segment(s)
		}
		if err != nil {
			return nil, err
		}
		segments[n] = s
	}
	return segments, nil
}

// segment checks one decoded segment. One accepted form must not smuggle in another: a server that decodes %2F finds a dot
// segment in "a%2F..%2Fb", and one that drops parameters reads "..;x" as "..".
func (i *Inspector) segment(s string) error {
	var err error
	if strings.Contains(s, "/") {
		err = i.ambiguous("encoded-slash", "an encoded slash (%2F)")
	}
	if err == nil && strings.Contains(s, `\`) {
		err = i.ambiguous("backslash", "a backslash, plain or encoded")
	}
	if err == nil && strings.Contains(s, ";") {
		err = i.ambiguous("parameters", "a semicolon (path parameters), plain or encoded")
	}
	for part := range strings.SplitSeq(strings.ReplaceAll(s, `\`, "/"), "/") {
		if err != nil {
			return err
		}
		switch name, _, _ := strings.Cut(part, ";"); name {
		case "":
			err = i.ambiguous("double-slash", "an empty segment (//)")
		case ".", "..":
			err = i.ambiguous("dot-segments", "a dot segment (. or ..), plain or encoded")
		}
	}
	return err
}

func (i *Inspector) ambiguous(form, what string) error {
	if slices.Contains(i.opt.Paths, form) {
		return nil
	}
	return unreadable("The request's path has %s, which servers read in different ways, so it is refused. Send the path in its plain form.", what)
}

// pairs reads a query or a form body: name=value&name=value.
func (i *Inspector) pairs(s, what string) (gate.Object, error) {
	if s == "" {
		return nil, nil
	}
	var g groups
	count := 0
	isJSON := what == "form" && looksLikeJSON([]byte(s)) // no server takes its first name, the JSON, for a parameter
	for part := range strings.SplitSeq(s, "&") {
		if part == "" {
			continue
		}
		if count++; count > maxPairs {
			return nil, unreadable("The request's %s has more than %d names and values. Send less at a time.", what, maxPairs)
		}
		if what == "form" {
			if err := i.count(1); err != nil {
				return nil, err
			}
		}
		if strings.Contains(part, ";") && !slices.Contains(i.opt.Paths, "parameters") {
			return nil, unreadable("The request's %s has a semicolon, which some servers read as a separator. Write %%3B.", what)
		}
		name, value, _ := strings.Cut(part, "=")
		n, err := decodeOnce(name, true)
		if err != nil {
			return nil, err
		}
		v, err := decodeOnce(value, true)
		if err != nil {
			return nil, err
		}
		if err := checkName(n, what); err != nil && (!isJSON || count > 1 || overridesMethod(n)) {
			return nil, err
		}
		g.add(n, v)
	}
	names := make([]string, len(g.members))
	for n, m := range g.members {
		names[n] = m.Name
	}
	return g.object(), checkNames(names, what)
}

// maxPairs bounds the time that pairs takes, which is quadratic, to about a millisecond. PHP and Django stop there too.
const maxPairs = 1000

// decodeOnce percent-decodes s, and reads "+" as a space if plus is true. It refuses broken encodings, control characters and
// text that is not UTF-8 (overlong forms included), and, unless plus is true, text that is encoded twice.
func decodeOnce(s string, plus bool) (string, error) {
	if strings.IndexByte(s, '%') < 0 && (!plus || strings.IndexByte(s, '+') < 0) && isPlainText(s) {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	for j := 0; j < len(s); j++ {
		switch c := s[j]; {
		case c == '+' && plus:
			b = append(b, ' ')
		case c != '%':
			if isControl(c, plus) {
				return "", unreadable("The request's path, query or form has a control character (0x%02X).", c)
			}
			b = append(b, c)
		case j+2 >= len(s) || !isHex(s[j+1]) || !isHex(s[j+2]):
			return "", unreadable("The request's path, query or form has a %% that is not followed by two hexadecimal digits. Write %%25 for a plain one.")
		default:
			d := unhex(s[j+1])<<4 | unhex(s[j+2])
			if isControl(d, plus) {
				return "", unreadable("The request's path, query or form has an encoded control character (%%%02X).", d)
			}
			b = append(b, d)
			j += 2
		}
	}
	if !utf8.Valid(b) {
		return "", unreadable("The request's path, query or form has bytes that are not UTF-8.")
	}
	for j := 0; !plus && j+2 < len(b); j++ {
		if b[j] == '%' && isHex(b[j+1]) && isHex(b[j+2]) {
			return "", unreadable("The request's path is percent-encoded twice (%s in %s). Encode it once.", b[j:j+3], s)
		}
	}
	return string(b), nil
}

// isControl reports whether c is a control character. In a value, line breaks and tabs do not count: people write them.
func isControl(c byte, value bool) bool {
	return c < 0x20 && (!value || c != '\n' && c != '\r' && c != '\t') || c == 0x7F
}

func isPlainText(s string) bool {
	for j := 0; j < len(s); j++ {
		if s[j] < 0x20 || s[j] >= 0x7F {
			return false
		}
	}
	return true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	default:
		return c - 'a' + 10
	}
}
