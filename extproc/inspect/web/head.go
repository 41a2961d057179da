package web

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
)

// heading collects what the header fields say while they are read.
type heading struct {
	kept, volatile  groups
	once            []string // singular names that were seen
	host            string
	contentType     string
	contentEncoding string
	hasContentType  bool
	transfer        string
	forwardedProto  string
}

func (i *Inspector) head(fields []Field) error {
	if i.begun {
		return unreadable("The request has two heads.")
	}
	i.begun = true
	r, h := &i.request, heading{kept: newGroups(len(fields)), volatile: newGroups(4), once: make([]string, 0, 8)}
	for _, f := range fields {
		err := checkField(f)
		switch {
		case err != nil:
		case f.Name[0] == ':':
			err = i.pseudo(f, &h)
		default:
			err = i.field(f, &h)
		}
		if err != nil {
			return err
		}
	}
	r.Headers, r.VolatileHeaders = h.kept.object(), h.volatile.object()
	if err := i.authority(h.host); err != nil {
		return err
	}
	// Envoy's X-Forwarded-Proto says how the client connected; :scheme is the client's own word. The target sees both.
	if h.forwardedProto != "" && r.Scheme != "" && h.forwardedProto != r.Scheme {
		return unreadable("The request says that its scheme is %q, and it came here by %q. Ask for the scheme by which you connect.", r.Scheme, h.forwardedProto)
	}
	if i.length >= 0 && h.transfer != "" || h.transfer != "" && !strings.EqualFold(h.transfer, "chunked") {
		return unreadable("The request's Transfer-Encoding is %q, alone or beside a Content-Length, so where its body ends is in doubt.", h.transfer)
	}
	if err := i.classify(&h); err != nil {
		return err
	}
	if err := i.method(); err != nil {
		return err
	}
	if i.tunnel && (i.length > 0 || h.transfer != "" || r.Method != "GET" && r.Method != "CONNECT") {
		return unreadable("The request asks to change the protocol and is not a GET or CONNECT without a body. Ask for the upgrade in a request of its own.")
	}
	return nil
}

// method refuses TRACE, and CONNECT unless the resource accepts it, and then reads the target.
func (i *Inspector) method() error {
	switch r := &i.request; r.Method {
	case "":
		return unreadable("The request has no method.")
	case "TRACE", "TRACK":
		return &Error{gate.Denied, r.Method + " is not accepted: its answer is the request's own header fields, and the target's credential is among them."}
	case "CONNECT":
		if !slices.Contains(i.opt.Upgrades, "connect") {
			return &Error{gate.Denied, "CONNECT is not accepted by this resource: what passes in a tunnel cannot be seen."}
		}
		i.tunnel = true
		if r.Target == "" { // RFC 9113, section 8.5; an extended CONNECT (RFC 8441) has one
			r.Segments = []string{}
			return nil
		}
	}
	return i.target()
}

func (i *Inspector) pseudo(f Field, h *heading) error {
	r := &i.request
	if slices.Contains(h.once, f.Name) {
		return unreadable("The request has the pseudo-header field %q more than once.", f.Name)
	}
	h.once = append(h.once, f.Name)
	switch f.Name {
	case ":method":
		if !isMethod(f.Value) {
			return unreadable("The request's method %q is not a method. Methods are in upper case.", gate.Recorded(f.Value, longestMethod))
		}
		if !i.opt.known(f.Value) {
			return unreadable("The request's method %q is none that this resource takes, which are those of the IANA registry, some that are in wide use, and what its configuration names (methods). Use one of these.", gate.Recorded(f.Value, longestMethod))
		}
		r.Method = f.Value
	case ":scheme":
		if f.Value != "http" && f.Value != "https" {
			return unreadable("The request's scheme %q is not http or https.", f.Value)
		}
		r.Scheme = f.Value
	case ":authority":
		r.Authority = f.Value
	case ":path":
		r.Target = f.Value
	case ":protocol":
		h.kept.add(f.Name, f.Value)
		return i.upgrade(f.Value)
	default:
		return unreadable("The request has a pseudo-header field %q that is not known.", f.Name)
	}
	return nil
}

// field puts a header field into the input, removes it, or refuses the request.
func (i *Inspector) field(f Field, h *heading) error {
	if singular[f.Name] {
		if slices.Contains(h.once, f.Name) {
			return unreadable("The request has the header field %q more than once, and servers differ in which one they read. Send it once.", f.Name)
		}
		h.once = append(h.once, f.Name)
	}
	if f.Name == "x-forwarded-proto" {
		h.forwardedProto = f.Value
	}
	switch {
	case oddName(f.Name):
		return unreadable("The header field %q has another character than letters, digits and hyphens in its name, and many servers read that as a hyphen. Use hyphens.", f.Name)
	case overridesRequest(f.Name):
		return unreadable("The header field %q changes what the request asks for behind its own method or path, so it is not accepted. Send the request that is meant.", f.Name)
	case framing[f.Name]:
		return i.frame(f, h)
	case f.Name == approvalField:
		i.drop(f.Name)
		return i.approval(f.Value)
	case f.Name == "cookie" && i.opt.Cookies:
		h.kept.add(f.Name, f.Value)
	case Identity(f.Name):
		if !slices.Contains(i.opt.Identity, f.Name) {
			i.drop(f.Name)
			return nil
		}
		h.kept.add(f.Name, f.Value)
	case i.opt.volatile(f.Name):
		h.volatile.add(f.Name, f.Value)
	default:
		h.kept.add(f.Name, f.Value)
	}
	return nil
}

// approvalField is the field in which an agent names its request for approval.
const approvalField = "countersign-approval"

func (i *Inspector) approval(id string) error {
	id = strings.ToLower(id)
	for j := range len(id) {
		if c := id[j]; (j == 8 || j == 13 || j == 18 || j == 23) != (c == '-') || c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			id = ""
			break
		}
	}
	if len(id) != 36 {
		return unreadable("The request's Countersign-Approval is not the id of a request for approval. Send what approval.id said, or leave the field out.")
	}
	i.request.Approval = id
	return nil
}

// frame reads the fields that say how the request is carried.
func (i *Inspector) frame(f Field, h *heading) (err error) {
	switch f.Name {
	case "host":
		h.host = f.Value
	case "content-type":
		h.contentType, h.hasContentType = f.Value, true
		h.kept.add(f.Name, f.Value)
	case "content-encoding":
		h.contentEncoding = f.Value
		h.kept.add(f.Name, f.Value)
	case "content-length":
		if i.length, err = strconv.ParseInt(f.Value, 10, 64); err != nil || f.Value[0] < '0' || f.Value[0] > '9' {
			return unreadable("The request's Content-Length %q is not a number of bytes.", f.Value)
		}
		if i.opt.Stream { // nothing else says how long the body is
			h.kept.add(f.Name, f.Value)
		} else {
			h.volatile.add(f.Name, f.Value)
		}
	case "transfer-encoding":
		h.transfer = f.Value
		if h.transfer == "" {
			h.transfer = "empty"
		}
	case "connection":
		return connection(f.Value)
	case "upgrade":
		h.kept.add(f.Name, f.Value)
		return i.upgrade(f.Value)
	case "te":
		if strings.EqualFold(f.Value, "trailers") {
			h.kept.add(f.Name, f.Value)
			return nil
		}
		i.drop(f.Name)
	default:
		i.drop(f.Name)
	}
	return nil
}

// connection refuses a Connection field that names end-to-end fields. The next proxy removes the fields that it names (RFC
// 9110, section 7.6.1), so a field that policy required would not reach the target.
func connection(value string) error {
	for option := range strings.SplitSeq(value, ",") {
		switch option = strings.ToLower(strings.Trim(option, " \t")); option {
		case "", "close", "keep-alive", "upgrade", "te", "http2-settings":
		default:
			return unreadable("The request's Connection names %q, which would be removed on the way. Leave it out.", option)
		}
	}
	return nil
}

func (i *Inspector) drop(name string) {
	if !slices.Contains(i.remove, name) {
		i.remove = append(i.remove, name)
	}
}

func (i *Inspector) upgrade(protocol string) error {
	for p := range strings.SplitSeq(protocol, ",") {
		name := strings.ToLower(strings.TrimSpace(p))
		if !slices.Contains(i.opt.Upgrades, name) {
			return &Error{gate.Denied, fmt.Sprintf("The request asks to upgrade to %q, which is not accepted by this resource: what passes in an upgraded connection cannot be seen.", name)}
		}
	}
	i.tunnel = true
	return nil
}

func checkField(f Field) error {
	if !isFieldName(f.Name) {
		return unreadable("The request has a header field with the name %q, which is not a name in lower case.", strings.ToValidUTF8(f.Name, "\uFFFD"))
	}
	ascii := true
	for j := 0; j < len(f.Value); j++ {
		c := f.Value[j]
		if c < 0x20 && c != '\t' || c == 0x7F {
			return unreadable("The header field %q has a control character in its value.", f.Name)
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if !ascii && !utf8.ValidString(f.Value) {
		return unreadable("The header field %q has bytes that are not UTF-8.", f.Name)
	}
	return nil
}

// isFieldName reports whether s is a token (RFC 9110, section 5.6.2) in lower case, with or without a colon before it. A name
// in upper case would be in no table of names here, and mean the same to the target.
func isFieldName(s string) bool {
	if len(s) > 1 && s[0] == ':' {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		if !tokenByte[s[i]] || s[i] >= 'A' && s[i] <= 'Z' {
			return false
		}
	}
	return s != ""
}

var tokenByte = func() (table [256]bool) {
	for c := '!'; c <= '~'; c++ {
		table[c] = !strings.ContainsRune("\"(),/:;<=>?@[\\]{}", c)
	}
	return table
}()

// authority finds the request's host in :authority and Host, which must agree.
func (i *Inspector) authority(host string) error {
	r := &i.request
	if r.Authority == "" {
		r.Authority = host
	} else if host != "" && !strings.EqualFold(host, r.Authority) {
		return unreadable("The request names two hosts, %q and %q. Name one.", r.Authority, host)
	}
	if r.Authority == "" {
		return unreadable("The request has no host.")
	}
	var ok bool
	if r.Host, ok = hostOnly(r.Authority); !ok {
		return unreadable("The request's host %q is not HOST or HOST:PORT.", r.Authority)
	}
	return nil
}

// hostOnly returns the host of an authority, in lower case, without the port. It accepts names and addresses only: no user
// information, no percent-encoding, nothing that two parsers of URLs could disagree on.
func hostOnly(authority string) (string, bool) {
	host := strings.ToLower(authority)
	var port string
	if end := strings.IndexByte(host, ']'); end >= 0 {
		host, port = host[:end+1], host[end+1:]
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil || host[0] != '[' || !ip.Is6() || ip.Zone() != "" || port != "" && port[0] != ':' {
			return "", false
		}
		port = strings.TrimPrefix(port, ":")
	} else {
		host, port, _ = strings.Cut(host, ":")
		host = strings.TrimSuffix(host, ".")
		if !isHostName(host) {
			return "", false
		}
	}
	for j := 0; j < len(port); j++ {
		if port[j] < '0' || port[j] > '9' {
			return "", false
		}
	}
	return host, len(port) <= 5
}

func isHostName(s string) bool {
	for j := 0; j < len(s); j++ {
		c := s[j]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && (c != '.' || j == 0 || s[j-1] == '.') {
			return false
		}
	}
	return s != "" && s[len(s)-1] != '.'
}

// groups collects values by name. The lists of values share one array until a name comes a second time.
type groups struct {
	members []gate.Member
	values  []string
}

func newGroups(n int) groups {
	return groups{make([]gate.Member, 0, n), make([]string, 0, n)}
}

func (g *groups) add(name, value string) {
	for i := range g.members {
		if g.members[i].Name == name {
			g.members[i].Value = append(g.members[i].Value.([]string), value) //nolint:forcetypeassert // nothing but add puts values here
			return
		}
	}
	g.values = append(g.values, value)
	n := len(g.values)
	g.members = append(g.members, gate.Member{Name: name, Value: g.values[n-1 : n : n]})
}

// object never fails: add keeps names unique.
func (g *groups) object() gate.Object {
	o, err := gate.MakeObject(g.members...)
	if err != nil {
		panic(err)
	}
	return o
}
