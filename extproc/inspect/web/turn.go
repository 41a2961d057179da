package web

import (
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Origin is the host, port and scheme of a target. No URL leads to the zero Origin.
type Origin struct {
	host string // in lower case, without a dot at the end
	ip   netip.Addr
	port uint64
	tls  bool
}

// NewOrigin returns the origin of a target.
func NewOrigin(host string, port uint32, tls bool) Origin {
	o := Origin{port: uint64(port), tls: tls}
	o.host, o.ip = plainHost(host)
	return o
}

// Turn rewrites URLs of a target into URLs of the gateway as the agent knows it, so that an agent that follows them stays on
// the gateway. The zero Turn rewrites nothing.
//
// A URL is the target's if its host and port are, in any spelling. Its scheme does not count, since a target knows only from
// X-Forwarded-Proto how its agents connect; so a target on the default port of its scheme is taken to have the default port of
// the other scheme too. A user in the URL is left out: it would be one of the target's. What follows the authority stays byte
// for byte, since the gateway has the target's paths. Left alone are relative URLs, which lead to the gateway anyway, URLs of
// other hosts, and what is not a URL.
type Turn struct {
	of                Origin
	scheme, authority string // as the agent connects
}

// For returns the Turn for URLs of o and an agent whose request has that scheme and authority.
func (o Origin) For(scheme, authority string) Turn {
	return Turn{o, strings.Clone(scheme), strings.Clone(authority)}
}

// URL rewrites a text that is a URL of the target and nothing else.
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

// defaultPorts are those of the schemes that lead to an HTTP server. A URL without a scheme ("//host/") takes its page's.
var defaultPorts = map[string]uint64{"http:": 80, "https:": 443, "ws:": 80, "wss:": 443, "": 0}

// is reports whether a URL of that scheme and authority leads to o.
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

// plainHost returns a host in the form in which hosts are compared: an IP address, or else a name.
func plainHost(host string) (string, netip.Addr) {
	if plain, err := url.PathUnescape(host); err == nil {
		host = plain
	}
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		return "", ip.Unmap()
	}
	return strings.TrimSuffix(strings.ToLower(host), "."), netip.Addr{}
}

// Field rewrites the URLs of the target in a field of URLs (see [HasURLs]), and counts them.
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

// refresh is a Refresh field as browsers read it: seconds, then a URL, with or without "url=" and quotes.
var refresh = regexp.MustCompile(`(?i)^([\d.]+\s*[;,]\s*(?:url\s*=\s*)?["']?)([^"']*)(["']?)$`)

// links rewrites the targets and the anchors of a Link field (RFC 8288, section 3). Other parameters are left alone, even if
// they are URLs: the URL of a relation type is only a name.
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

// quotedEnd returns where the quoted string at the beginning of s ends (RFC 9110, section 5.6.4), or -1 if it does not.
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
