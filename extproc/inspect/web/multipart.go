package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"html"
	"mime"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/media"
)

// Bounds on multipart bodies. Go, PHP and Django stop at about as many parts.
const (
	maxParts    = 1000
	maxPartHead = 8 << 10
	maxPartText = 64 << 10 // of a file's text that policy sees
)

// boundaryForm is RFC 2046's, without the comma and the space, at which some servers end a boundary.
var boundaryForm = regexp.MustCompile(`^[0-9A-Za-z'()+_./:=?-]{1,70}$`)

// setBoundary reads the boundary of a multipart type. Rack takes the last "boundary=" of the field, PHP the first, and both
// look into quoted text, so only one is accepted.
func (i *Inspector) setBoundary(field string, params map[string]string) error {
	i.boundary = params["boundary"]
	written := strings.ToLower(field)
	at := strings.Index(written, "boundary=")
	if !boundaryForm.MatchString(i.boundary) || strings.Count(written, "boundary") != 1 || at < 0 {
		return unreadable("The request's Content-Type %.200q has no boundary, more than one, or one that servers read in different ways. Send one of letters and digits.", field)
	}
	if value := field[at+len("boundary="):]; !strings.HasPrefix(value, i.boundary) && !strings.HasPrefix(value, `"`+i.boundary+`"`) {
		return unreadable("The request's Content-Type %.200q has a boundary with an escape. Send one of letters and digits.", field)
	}
	return nil
}

// multipart reads a multipart body. It accepts what RFC 2046 lets a sender write, and nothing else that it lets a receiver
// accept. So a part ends at the same place for a reader that wants no CR before a LF, for one that finds a boundary in the
// middle of a line, and for one that reads on after the last boundary.
func (i *Inspector) multipart() error {
	delimiter := []byte("--" + i.boundary)
	if looksLikeJSON(i.body) && !bytes.Contains(i.body, delimiter) {
		return nil // nobody reads it as multipart
	}
	rest, found := bytes.CutPrefix(i.body, delimiter)
	if !found {
		return unreadable("The request's multipart body does not begin with its boundary. Send nothing before the first part.")
	}
	i.request.Multipart = []any{}
	names := []string{}
	for !bytes.HasPrefix(rest, []byte("--")) {
		var part part
		var err error
		if part, rest, err = cutPart(rest, delimiter); err == nil {
			err = i.part(&part)
		}
		if err != nil {
			return err
		}
		if part.hasName && !slices.Contains(names, part.name) {
			names = append(names, part.name)
		}
		i.request.Multipart = append(i.request.Multipart, part.object())
	}
	if rest = rest[2:]; len(rest) > 0 && string(rest) != "\r\n" {
		return unreadable("The request's multipart body goes on after its last boundary. Send nothing there.")
	}
	return checkNames(names, "multipart body")
}

// part is one part of a multipart body.
type part struct {
	head []byte
	data []byte

	headers          gate.Object
	media            string // of its Content-Type; "" where there is none
	name, filename   string
	hasName, hasFile bool
	shown            bool // policy sees its data
}

// cutPart cuts off the part that follows a delimiter. rest begins after the next delimiter.
func cutPart(b, delimiter []byte) (p part, rest []byte, err error) {
	b, found := bytes.CutPrefix(b, []byte("\r\n"))
	if !found {
		return p, nil, unreadable("The request's multipart body has a boundary that is not alone on its line, or lines that do not end in CR LF.")
	}
	if after, empty := bytes.CutPrefix(b, []byte("\r\n")); empty {
		b = after
	} else if p.head, b, found = bytes.Cut(b, []byte("\r\n\r\n")); !found || len(p.head) > maxPartHead || bytes.Contains(p.head, delimiter) {
		return p, nil, unreadable("The request's multipart body has a part whose header fields do not end within %d bytes, in an empty line with CR LF.", maxPartHead)
	}
	p.data, rest, found = bytes.Cut(b, delimiter)
	if !found {
		return p, nil, unreadable("The request's multipart body does not end with its boundary and two hyphens. Send all of it.")
	}
	if p.data, found = bytes.CutSuffix(p.data, []byte("\r\n")); !found {
		return p, nil, unreadable("The request's multipart body has its boundary in the middle of a line, or after a line that does not end in CR LF. Choose a boundary that is not in the parts.")
	}
	return p, rest, nil
}

// part reads the head of a part and decides what policy sees of its data.
func (i *Inspector) part(p *part) error {
	if len(i.request.Multipart) == maxParts {
		return unreadable("The request's multipart body has more than %d parts. Send less at a time.", maxParts)
	}
	if err := i.count(1); err != nil {
		return err
	}
	grouped := newGroups(4)
	for line := range strings.SplitSeq(string(p.head), "\r\n") {
		if line == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		f := Field{strings.ToLower(name), strings.Trim(value, " \t")}
		if err := checkField(f); err != nil || !found {
			return unreadable("A part of the request's multipart body has the header line %.100q, which is not NAME: VALUE on one line.", line)
		}
		if slices.ContainsFunc(grouped.members, func(m gate.Member) bool { return m.Name == f.Name }) {
			return unreadable("A part of the request's multipart body has the header field %q twice. Send it once.", f.Name)
		}
		grouped.add(f.Name, f.Value)
		if err := i.partField(p, f); err != nil {
			return err
		}
	}
	p.headers = grouped.object()
	return i.partData(p)
}

func (i *Inspector) partField(p *part, f Field) error {
	switch f.Name {
	case "content-disposition":
		return p.disposition(f.Value, i.isForm)
	case "content-type":
		name, params, err := mime.ParseMediaType(f.Value)
		if err != nil {
			return unreadable("A part of the request's multipart body has a Content-Type %.100q that cannot be read: %v.", f.Value, err)
		}
		p.media = name
		if i.isForm && strings.HasPrefix(name, "multipart/") {
			return unreadable("The request's form has a part that has parts itself (%s), which servers read in different ways. Send them one by one.", name)
		}
		return checkCharset(params["charset"], "A part of the request's multipart body")
	case "content-transfer-encoding":
		if !slices.Contains([]string{"7bit", "8bit", "binary"}, strings.ToLower(f.Value)) {
			return unreadable("A part of the request's multipart body is encoded (Content-Transfer-Encoding: %.40s), and servers differ in whether they decode it. Send it as it is.", f.Value)
		}
	case "content-encoding":
		if !strings.EqualFold(f.Value, "identity") {
			return unreadable("A part of the request's multipart body is encoded (Content-Encoding: %.40s) and cannot be read. Send it as it is.", f.Value)
		}
	case "content-length":
		if f.Value != strconv.Itoa(len(p.data)) {
			return unreadable("A part of the request's multipart body has %d bytes, and its Content-Length is %.40q.", len(p.data), f.Value)
		}
	case "content-id": // Rack uses it as the name of a part that has none
		if overridesMethod(strings.Trim(f.Value, "<>")) {
			return checkName("_method", "multipart body")
		}
	}
	return nil
}

// A Content-Disposition of RFC 7578, in the spellings that all servers read alike: no escapes (PHP and Internet Explorer take
// a backslash for part of a path), no single quotes (PHP takes them for quotes), nothing in a value that looks like another
// parameter (Rack searches for it), and no encoded words (Java's parsers decode them).
var (
	dispositionForm = regexp.MustCompile(`^[A-Za-z-]+([ \t]*;[ \t]*([A-Za-z-]+=("[^"\\]*"|[!#$%&*+.^_|~0-9A-Za-z-]+)|(?i:filename\*=utf-8)'[A-Za-z-]*'[!#$&+.^_|~0-9A-Za-z%-]*))*$`)
	dispositionPart = regexp.MustCompile(`;[ \t]*([A-Za-z-]+\*?)=("[^"]*"|[^\s;]+)`)
	looksLikeAName  = regexp.MustCompile(`(?i)name\s*\*?[0-9]*\s*=|=\?|%[0-9a-f][0-9a-f]`)
)

func (p *part) disposition(value string, form bool) error {
	refuse := func(why string) error {
		return unreadable("A part of the request's multipart body has the Content-Disposition %.200q, with %s. Send form-data; name=\"NAME\"; filename=\"NAME\", in plain text.", value, why)
	}
	if !dispositionForm.MatchString(value) {
		return refuse("quotes, escapes or characters that servers read in different ways")
	}
	kind, _, _ := strings.Cut(value, ";")
	if form && !strings.EqualFold(strings.TrimSpace(kind), "form-data") {
		return refuse("another kind than form-data")
	}
	params := map[string]string{}
	for _, m := range dispositionPart.FindAllStringSubmatch(value, -1) {
		name, text := strings.ToLower(m[1]), strings.Trim(m[2], `"`)
		if _, twice := params[name]; twice {
			return refuse("a parameter that is there twice")
		}
		plain := text
		if name == "filename" { // browsers write a quotation mark as %22, and Rack decodes it: the file's extension stays the same
			plain = strings.NewReplacer("%22", "_", "%20", " ").Replace(text)
		}
		if name != "filename*" && looksLikeAName.MatchString(plain) || name == "filename" && plain != text && cleanedOtherwise(plain) {
			return refuse("a value that some servers decode, or take parameters from")
		}
		params[name] = text
	}
	p.name, p.hasName = params["name"]
	p.filename, p.hasFile = params["filename"]
	extended, both := params["filename*"]
	delete(params, "name")
	delete(params, "filename")
	delete(params, "filename*")
	for name := range params {
		if form {
			return refuse("the parameter " + name + ", which is not of a form")
		}
	}
	if both { // .NET sends both
		_, encoded, _ := strings.Cut(extended[min(len("utf-8'"), len(extended)):], "'")
		if decoded, err := url.PathUnescape(encoded); err != nil || !p.hasFile || decoded != p.filename {
			return refuse("a filename* that is not its filename")
		}
	}
	steps := strings.Split(strings.TrimPrefix(p.filename, "/"), "/")
	switch {
	case p.filename != "" && slices.ContainsFunc(steps, func(s string) bool { return s == "" || s == "." || s == ".." }):
		return refuse("a file name that is a path to somewhere else")
	case cleanedOtherwise(p.filename):
		return refuse("a file name that some servers change")
	}
	return nil
}

// cleanedOtherwise reports whether some servers change this file name. Django decodes HTML's character references and drops
// unprintable characters; Windows drops spaces and dots at the end. Spaces of other widths are accepted before the extension:
// macOS puts one into the names of screenshots.
func cleanedOtherwise(filename string) bool {
	dot := strings.LastIndexByte(filename, '.')
	return html.UnescapeString(filename) != filename || strings.Contains(filename, "&#") ||
		strings.TrimFunc(filename, blank) != filename || strings.HasSuffix(filename, ".") ||
		strings.ContainsFunc(filename, func(c rune) bool { return blank(c) && !unicode.Is(unicode.Zs, c) }) ||
		strings.ContainsFunc(filename[dot+1:], func(c rune) bool { return c != ' ' && blank(c) })
}

// partData decides what policy sees of a part's data. A part of a form that is no file is a value of the form: policy sees
// all of it, whatever its type says.
func (i *Inspector) partData(p *part) error {
	name := p.name
	if !p.hasName {
		name = p.filename // Rack uses it as the name of a part that has none
	}
	if i.isForm && !p.hasName {
		return unreadable("The request's form has a part without a name. Send Content-Disposition: form-data; name=\"NAME\".")
	}
	if err := checkName(name, "multipart body"); err != nil && (p.hasName || overridesMethod(name)) {
		return err
	}
	if name == "_charset_" && !strings.EqualFold(string(p.data), "utf-8") {
		return unreadable("The request's form says that it is in another charset than UTF-8 (_charset_). Send UTF-8.")
	}
	kind := media.KindOf(p.media)
	isText := p.media == "" || kind != media.Bytes || p.media == "application/http"
	readable := utf8.Valid(p.data) && bytes.IndexByte(p.data, 0) < 0
	if i.isForm && !p.hasFile && isText && !readable {
		return unreadable("The request's form has a value of %.100q that is not text in UTF-8. Send it as a file, or with its type.", p.name)
	}
	isValue := i.isForm && p.filename == "" // to Django and Go also if there is an empty filename
	if isValue && p.hasFile && !readable {
		return unreadable("The request's form has %.100q as a file without a name, which some servers read as a value. Send the file's name.", p.name)
	}
	p.shown = readable && (isValue || isText && len(p.data) <= maxPartText)
	if kind == media.JSON && len(p.data) > 0 {
		if _, err := i.json(p.data, "JSON in a part of the request's body"); err != nil {
			return err
		}
	}
	return nil
}

// object returns the part as policy sees it. Members that the part does not have are left out.
func (p *part) object() gate.Object {
	sum := sha256.Sum256(p.data)
	o := append(make(gate.Object, 0, 7), gate.Member{Name: "bytes", Value: len(p.data)})
	if p.hasFile {
		o = append(o, gate.Member{Name: "filename", Value: p.filename})
	}
	o = append(o, gate.Member{Name: "headers", Value: p.headers})
	if p.hasName {
		o = append(o, gate.Member{Name: "name", Value: p.name})
	}
	o = append(o, gate.Member{Name: "sha256", Value: hex.EncodeToString(sum[:])}, gate.Member{Name: "type", Value: p.media})
	if p.shown {
		o = append(o, gate.Member{Name: "value", Value: string(p.data)})
	}
	return o
}
