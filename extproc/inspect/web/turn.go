package web

import (
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Origin is where a target is. The zero Origin is nobody's.
type Origin struct {
	host string // in lower case, without a dot at the end
	ip   netip.Addr
	port uint64
	tls  bool
}

// NewOrigin is of a target of that host, port and scheme.
func NewOrigin(host string, port uint32, tls bool) Origin {
	o := Origin{port: uint64(port), tls: tls}
	o.host, o.ip = plainHost(host)
	return o
}

// Turn turns URLs of a target into those by which its agent comes to the gateway, so that whoever follows them stays on it. The
// zero Turn turns nothing.
//
// A URL is the target's if its host and port are, in whatever spelling, with or without a user, which is left out: the agent
// has no business with a user of the target. Its scheme does not count, because a target can learn only from X-Forwarded-Proto
// how its agents connect; so where the target has the default port of its scheme, it has that of the other scheme too. What
// follows the authority stays byte for byte, as the target's paths are the gateway's. Everything else is left alone: relative
// URLs, which lead to the gateway by themselves, those of other hosts, and what is not a URL.
type Turn struct {
	of                Origin
	scheme, authority string // as the agent connects
}

// For is what turns URLs of o for an agent whose request has that scheme and authority.
func (o Origin) For(scheme, authority string) Turn {
	return Turn{o, strings.Clone(scheme), strings.Clone(authority)}
}

// URL turns a text that is a URL of the target and nothing else.
func (t Turn) URL(text string) (turned string, ok bool) {
	scheme, rest, found := strings.Cut(text, "//")
	if !found || t.authority == "" {
		return text, false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7F }) || !t.of.is(strings.ToLower(scheme), rest[:end]) {
		return text, false
	}
	switch strings.ToLower(scheme) {
	case "http:", "https:":
		scheme = t.scheme + ":"
	case "ws:", "wss:":
		scheme = map[string]string{"http": "ws:", "https": "wss:"}[t.scheme]
	}
	return scheme + "//" + t.authority + rest[end:], true
}

// defaultPorts are those of the schemes that lead to an HTTP server. Without a scheme a URL has that of where it stands.
var defaultPorts = map[string]uint64{"http:": 80, "https:": 443, "ws:": 80, "wss:": 443, "": 0}

// is reports whether what follows "//" in a URL leads to o.
func (o Origin) is(scheme, authority string) bool {
	port, known := defaultPorts[scheme]
	host := authority[strings.LastIndexByte(authority, '@')+1:]
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		if digits := host[i+1:]; digits != "" {
			n, err := strconv.ParseUint(digits, 10, 16)
			if err != nil {
				return false
			}
			port = n
		}
		host = host[:i]
	}
	name, ip := plainHost(host)
	same := o.host != "" && name == o.host || ip.IsValid() && ip == o.ip
	defaults := (o.port == 443 && o.tls || o.port == 80 && !o.tls) && (port == 0 || port == 80 || port == 443)
	return known && same && (port == o.port || defaults)
}

// plainHost is a host as it is compared: an address where it is one, else a name.
func plainHost(host string) (string, netip.Addr) {
	if plain, err := url.PathUnescape(host); err == nil {
		host = plain
	}
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		return "", ip.Unmap()
	}
	return strings.TrimSuffix(strings.ToLower(host), "."), netip.Addr{}
}

// Field turns the URLs of the target in a field of which [HasURLs] is true, and says how many they are.
func (t Turn) Field(name, value string) (turned string, n int64) {
	switch name {
	case "link":
		return t.links(value)
	case "refresh":
		parts := refresh.FindStringSubmatch(value)
		if parts == nil {
			return value, 0
		}
		u, ok := t.URL(parts[2])
		if !ok {
			return value, 0
		}
		return parts[1] + u + parts[3], 1
	}
	if u, ok := t.URL(value); ok {
		return u, 1
	}
	return value, 0
}

// refresh is how browsers read the field: seconds, and a URL that may be called one and may stand in quotes.
var refresh = regexp.MustCompile(`(?i)^([\d.]+\s*[;,]\s*(?:url\s*=\s*)?["']?)([^"']*)(["']?)$`)

// links turns what the links of a Link field (RFC 8288, section 3) lead to, and the anchors that they are links of. Other
// parameters are left alone, also one that is a URL, as that of a relation type only names it.
func (t Turn) links(value string) (string, int64) {
	var out strings.Builder
	var n int64
	for {
		begin := strings.IndexAny(value, `<"`)
		if begin < 0 {
			break
		}
		end := strings.IndexByte(value[begin:], '>')
		if value[begin] == '"' {
			end = quotedEnd(value[begin:])
		}
		if end < 0 {
			break
		}
		end += begin
		text := value[begin+1 : end]
		if value[begin] == '<' || anchor.MatchString(value[:begin]) {
			if u, ok := t.URL(text); ok {
				text, n = u, n+1
			}
		}
		out.WriteString(value[:begin+1])
		out.WriteString(text)
		out.WriteByte(value[end])
		value = value[end+1:]
	}
	return out.String() + value, n
}

var anchor = regexp.MustCompile(`(?i);\s*anchor\s*=\s*$`)

// quotedEnd is where the quoted string ends that s begins with (RFC 9110, section 5.6.4); -1 where it does not.
func quotedEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}
