package redact

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

var fuzzTypes = []string{
	jsonType, "application/x-ndjson", "application/json-seq", "text/event-stream", "text/plain", "text/html",
}

var fuzzPlans = [][]string{
	{"$..ssn", "$.a.b remove"},
	{"email", "card", "ssn", "iban", "key", "token"},
	{"$[*].x token", "$..y null", "email remove", "card null", "ssn token"},
	{"$"},
	{"$..a remove", "$.*[0] remove", "email"},
}

var fuzzBodies = []string{
	``, ` `, `{}`, `[]`, `null`, `-1.5e+7`, `"x"`, `{"ssn":"219-09-9999","a":{"b":[1,2,{}],"c":"a\u0040b.com"}}`,
	`[{"x":{"y":[1,"\ud83d\ude00é"],"x":null}},{"x":4111111111111111,"a@b.co":"c@d.co"}]`,
	"{\"a\":1}\r\n\n{\"a\":\"x\"}\ntrue\n12", "\x1e{\"a\":1}\n\x1e2\n",
	"event: a\r\ndata: {\"ssn\":\rdata: 1}\n\n: x\nid:a@b.co\ndata:[DONE]\n\ndata: x a@b.co\ndata\n\n",
	"a@b.co, 4111 1111 1111 1111\n-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----y\nDE89 3704 0044 0532 0130 00",
	"a&#64;b.co &amp; &#x2e;\n", `{"a":1,"a":2}`, `{"ssn":{"a":1,"a":2}}`, "\"\xff\"", `"\ud800"`, "\uFEFF1", `1 2`, "{\"a\":1}\n\r\n{\"ssn\":2}{}\n",
	"data: ping\n\ndata: x\nid: 1\n\ndata: {\ndata: x\n\n: y\n\ndata: OK\n\n", `[1,]`, `{"a":nul`, `[[[[`,
}

// Any split of the chunks gives the same bytes, counts and error.
func FuzzChunkSplit(f *testing.F) {
	for i, body := range fuzzBodies {
		f.Add(body, i, i, uint64(i))
	}
	f.Fuzz(func(t *testing.T, body string, typeIndex, planIndex int, seed uint64) {
		contentType := fuzzTypes[uint(typeIndex)%uint(len(fuzzTypes))]
		p := plan(t, fuzzPlans[uint(planIndex)%uint(len(fuzzPlans))]...)
		limits := Options{MaxToken: 64, MaxDepth: 8, MaxNames: 40, MaxLine: 48, Live: seed%2 == 0}
		want := feed(t, p, contentType, limits, []byte(body))
		random := rand.New(rand.NewPCG(seed, 1))
		for _, most := range []int{1, 2, 3, 16, len(body) + 1} {
			var chunks [][]byte
			for rest := []byte(body); len(rest) > 0; {
				n := min(len(rest), random.IntN(most)+1)
				chunks = append(chunks, rest[:n], nil)
				rest = rest[n:]
			}
			if diff := cmp.Diff(want, feed(t, p, contentType, limits, chunks...)); diff != "" {
				t.Fatalf("%q in chunks of up to %d (-whole +chunks):\n%s", body, most, diff)
			}
		}
	})
}

// What jsontext takes we take, and what it refuses we withhold; a plan that meets nothing leaves every token as it was.
func FuzzAgainstJSONText(f *testing.F) {
	for _, body := range fuzzBodies {
		f.Add([]byte(body))
	}
	p := plan(f, "$.thisNameIsInNoSeed.x")
	f.Fuzz(func(t *testing.T, body []byte) {
		got := feed(t, p, jsonType, Options{MaxDepth: 9_000}, body)
		if strings.Contains(got.Err, "more than") || len(body) == 0 {
			return // a limit of ours
		}
		want, err := compacted(body)
		if (err == nil) != (got.Err == "") {
			t.Fatalf("%q: jsontext says %v, we say %q", body, err, got.Err)
		}
		if err == nil && got.Out != want {
			t.Fatalf("%q: jsontext writes %s, we %s", body, want, got.Out)
		}
		for _, lines := range fuzzPlans {
			got := feed(t, plan(t, lines...), jsonType, Options{}, body)
			if got.Err != "" {
				continue
			}
			if out, err := compacted([]byte(got.Out)); err != nil || out != got.Out {
				t.Fatalf("%q with %q is %s, which is not valid", body, lines, got.Out)
			}
		}
	})
}

// compacted is the JSON values of a body as jsontext reads and writes them, one a line.
func compacted(body []byte) (string, error) {
	var lines []string
	strict := []jsontext.Options{jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false)}
	var end int64
	for d := jsontext.NewDecoder(bytes.NewReader(body), strict...); ; {
		v, err := d.ReadValue()
		from := d.InputOffset() - int64(len(v))
		switch {
		case err == nil && end > 0 && !bytes.Contains(body[end:from], []byte("\n")):
			return "", errors.New("two values in a line")
		case errors.Is(err, io.EOF) && len(lines) > 0:
			return strings.Join(lines, "\n"), nil
		case err != nil:
			return "", err
		}
		end, v = d.InputOffset(), v.Clone()
		if err := v.Compact(strict...); err != nil {
			return "", err
		}
		lines = append(lines, string(v))
	}
}

// A tree that paths are applied to by the book gives what the stream gives.
func FuzzPaths(f *testing.F) {
	for i, body := range fuzzBodies {
		f.Add([]byte(body), "$..a remove", "$.a[*].x", "$[0]")
		f.Add([]byte(`[{"a":{"a":[{"x":1},2]}},[[0]]]`), []string{"$[*]..a", "$[0].*", "$..a..x", "$.*[0][0]"}[i%4], "$..x null", "$[1][0] remove")
	}
	f.Fuzz(func(t *testing.T, body []byte, one, two, three string) {
		rs := rules(one, two, three)
		p, err := Compile(rs, testKey)
		if err != nil || p.on != 0 || strings.Contains(one+two+three, "token") {
			return
		}
		root, err := parse(body)
		if err != nil {
			return
		}
		for _, r := range p.paths.rules {
			root.apply(r.segments, r.action)
		}
		var want strings.Builder
		root.write(&want)
		got := feed(t, p, jsonType, Options{}, body)
		if got.Err == "" && got.Out != want.String() {
			t.Fatalf("%+v %q\n got %s\nwant %s", rs, body, got.Out, want.String())
		}
		if got.Err != "" && !strings.Contains(got.Err, "more than") {
			t.Fatalf("%q: %s", body, got.Err)
		}
	})
}

// node is a JSON value as a tree.
type node struct {
	raw      string // of a scalar
	open     string // "{" or "["
	names    []string
	spelled  []string // names as they were written
	children []*node
	action   action
}

func parse(body []byte) (*node, error) {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	root, err := parseNode(d)
	if err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("data after the value: %w", err)
	}
	return root, nil
}

func parseNode(d *jsontext.Decoder) (*node, error) {
	k := d.PeekKind()
	if k != '{' && k != '[' {
		v, err := d.ReadValue()
		return &node{raw: string(v)}, err
	}
	n := &node{open: string(rune(k))}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	for d.PeekKind() != k+2 {
		if k == '{' {
			spelled, err := d.ReadValue()
			if err != nil {
				return nil, err
			}
			name, err := jsontext.AppendUnquote(nil, spelled)
			if err != nil {
				return nil, err
			}
			n.spelled, n.names = append(n.spelled, string(spelled)), append(n.names, string(name))
		}
		child, err := parseNode(d)
		if err != nil {
			return nil, err
		}
		n.children = append(n.children, child)
	}
	_, err := d.ReadToken()
	return n, err
}

// apply marks what the segments select, as RFC 9535 says it.
func (n *node) apply(segments []segment, act action) {
	if len(segments) == 0 {
		n.action = max(n.action, act)
		return
	}
	s := segments[0]
	for i, c := range n.children {
		if s.kind == byAny || s.kind == byIndex && n.open == "[" && s.index == i || s.kind == byName && n.open == "{" && s.name == n.names[i] {
			c.apply(segments[1:], act)
		}
		if s.descendant {
			c.apply(segments, act)
		}
	}
}

func (n *node) write(b *strings.Builder) {
	switch n.action {
	case mask:
		b.WriteString(`"` + Masked + `"`)
		return
	case null:
		b.WriteString("null")
		return
	default: // kept, or removed by what it is in
	}
	b.WriteString(n.raw + n.open)
	first := true
	for i, c := range n.children {
		if c.action == remove {
			continue
		}
		if !first {
			b.WriteString(",")
		}
		first = false
		if n.open == "{" {
			b.WriteString(n.spelled[i] + ":")
		}
		c.write(b)
	}
	switch n.open {
	case "{":
		b.WriteString("}")
	case "[":
		b.WriteString("]")
	}
}

// Two bodies that differ only in protected values, and in what is around them that JSON gives no meaning, give the same
// bytes.
func FuzzNonInterference(f *testing.F) {
	for i := range uint64(64) {
		f.Add(i, i+1, i+1000)
	}
	f.Fuzz(func(t *testing.T, shape, one, other uint64) {
		types := []string{jsonType, "application/x-ndjson", "text/event-stream", "application/json-seq"}
		contentType := types[shape%4]
		with := []string{"mask", "remove", "null"}[shape/4%3]
		p := plan(t, "$..secret "+with, "$.list[*].a "+with, "email", "card "+with, "key")
		a, b := secretBody(contentType, shape, one), secretBody(contentType, shape, other)
		gotA, gotB := whole(t, p, contentType, a), each(t, p, contentType, b, 7)
		if diff := cmp.Diff(gotA, gotB); diff != "" {
			t.Fatalf("\n%s\n\n%s\n(-one +other):\n%s", a, b, diff)
		}
		if gotA.Err != "" {
			t.Fatalf("%s: %s", a, gotA.Err)
		}
		// However tight the limits are.
		tight := Options{MaxToken: 160, MaxDepth: 6, MaxNames: 12}
		gotA, gotB = feed(t, p, contentType, tight, []byte(a)), feed(t, p, contentType, tight, []byte(b))
		if diff := cmp.Diff(gotA, gotB); diff != "" {
			t.Fatalf("\n%s\n\n%s\n(-one +other):\n%s", a, b, diff)
		}
	})
}

// secretBody writes a body whose shape and public values come from shape, and everything else from fill.
func secretBody(contentType string, shape, fill uint64) string {
	w := &bodyWriter{shape: rand.New(rand.NewPCG(shape, 2)), fill: rand.New(rand.NewPCG(fill, 3))}
	for range w.shape.IntN(3) + 1 {
		w.b.Reset()
		w.list()
		doc := w.b.String()
		switch contentType {
		case jsonType:
			return doc
		case "application/x-ndjson":
			w.all += strings.TrimSpace(doc) + "\n" // an empty line is no space around a value
		case "application/json-seq":
			w.all += "\x1e" + doc + "\n"
		default:
			for line := range strings.SplitSeq(doc, "\n") {
				w.all += "data: " + strings.ReplaceAll(line, "\r", " ") + "\n"
			}
			w.all += "\n"
		}
	}
	return w.all
}

type bodyWriter struct {
	b           strings.Builder
	all         string
	shape, fill *rand.Rand
}

func (w *bodyWriter) space() {
	for range w.fill.IntN(4) {
		w.b.WriteByte(" \t\n\r"[w.fill.IntN(4)])
	}
}

func (w *bodyWriter) put(s string) {
	w.space()
	w.b.WriteString(s)
	w.space()
}

// list writes {"list":[{"a":secret,…},…],"secret":secret,"p":public}.
func (w *bodyWriter) list() {
	w.put(`{`)
	w.put(`"list"`)
	w.put(`:`)
	w.put(`[`)
	for i := range w.shape.IntN(3) {
		if i > 0 {
			w.put(`,`)
		}
		w.put(`{`)
		w.put([]string{`"a"`, `"\u0061"`}[w.shape.IntN(2)])
		w.put(`:`)
		w.anything(3)
		w.put(`,"b":`)
		w.public(2)
		w.put(`}`)
	}
	w.put(`],"secret":`)
	w.anything(3)
	w.put(`,"p":`)
	w.public(3)
	w.put(`}`)
}

// public writes a value that both bodies have, with protected values inside.
func (w *bodyWriter) public(depth int) {
	switch n := w.shape.IntN(9); {
	case n == 8:
		w.put(`"card ` + strings.Trim(w.grouped(), `"`) + ` 123, code"`)
	case n == 0 && depth > 0:
		w.put(`{"x":`)
		w.public(depth - 1)
		w.put(`,"secret":`)
		w.anything(depth)
		w.put(`,"z":1.0e2}`)
	case n == 1 && depth > 0:
		w.put(`[`)
		w.public(depth - 1)
		w.put(`,`)
		w.public(depth - 1)
		w.put(`]`)
	case n == 2:
		w.put(`"mail <` + w.address() + `> \u00e9"`)
	case n == 3:
		w.put(w.pan())
	case n == 4:
		w.put(`{"` + w.address() + `":1,"` + w.address() + `":2}`)
	case n == 5:
		w.put(`"` + []string{"npm_", "ghp_"}[w.fill.IntN(2)] + strings.Repeat("a1", 15+w.fill.IntN(30)) + ` is it"`)
	default:
		w.put([]string{`"pub\u006cic"`, `true`, `-1.50`, `null`}[w.shape.IntN(4)])
	}
}

func (w *bodyWriter) address() string {
	at := []string{"@", `\u0040`}[w.fill.IntN(2)]
	return strings.Repeat("a", 1+w.fill.IntN(20)) + fmt.Sprint(w.fill.Uint32()) + at + strings.Repeat("b.", 1+w.fill.IntN(5)) + "com"
}

// digits makes the digits of a card.
func (w *bodyWriter) digits() string {
	digits := make([]byte, []int{13, 16, 19}[w.fill.IntN(3)])
	for i := range digits {
		digits[i] = byte('0' + w.fill.IntN(10))
	}
	digits[0] = '4'
	for !luhn(digits) {
		digits[len(digits)-1] = '0' + (digits[len(digits)-1]-'0'+1)%10
	}
	return string(digits)
}

func (w *bodyWriter) grouped() string {
	s := w.digits()
	return `"` + s[:4] + " " + s[4:8] + "-" + s[8:] + `"`
}

// pan writes a card as a string or as a number, in groups or not.
func (w *bodyWriter) pan() string {
	switch s := w.digits(); w.fill.IntN(5) {
	case 0:
		return s
	case 1:
		return s + ".00"
	case 2:
		return s[:1] + "." + s[1:] + fmt.Sprintf("e%d", len(s)-1)
	case 3:
		return w.grouped()
	default:
		return fmt.Sprintf(`"\u%04x%s"`, s[0], s[1:])
	}
}

// anything writes any value: it is protected.
func (w *bodyWriter) anything(depth int) {
	switch n := w.fill.IntN(10); {
	case n == 0 && depth > 0:
		w.put(`{`)
		for i := range w.fill.IntN(4) {
			if i > 0 {
				w.put(`,`)
			}
			w.put(fmt.Sprintf(`"secret%d":`, i%3))
			w.anything(depth - 1)
		}
		w.put(`}`)
	case n == 1 && depth > 0:
		w.put(`[`)
		for i := range w.fill.IntN(4) {
			if i > 0 {
				w.put(`,`)
			}
			w.anything(depth - 1)
		}
		w.put(`]`)
	case n == 2:
		w.put(fmt.Sprint(w.fill.Int64()))
	case n == 3:
		w.put(fmt.Sprintf("%g", w.fill.NormFloat64()))
	case n == 4:
		w.put(w.pan())
	case n == 5:
		w.put(`"` + w.address() + `"`)
	case n == 6:
		deep := w.fill.IntN(9)
		w.put(strings.Repeat("[", deep) + strings.Repeat("7", 1+w.fill.IntN(2000)) + strings.Repeat("]", deep))
	default:
		w.put([]string{`""`, `null`, `true`, `"\ud83d\ude00\\"`, `"` + strings.Repeat("x", w.fill.IntN(500)) + `"`}[w.fill.IntN(5)])
	}
}

// plainForms are what detectors must not miss, said another way: in plain surroundings.
var plainForms = regexp.MustCompile(`[A-Za-z0-9][A-Za-z0-9._+-]*@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b` +
	`|\b[1-5][1-9][0-9]-[1-9][1-9]-[1-9][0-9]{3}\b|\bghp_[A-Za-z0-9]{36}\b|\b4111([ -]?)1111([ -]?)1111([ -]?)1111\b`)

// Nothing that is plainly protected stays; what is not matched stays as it was; a text stream agrees with MaskText.
func FuzzText(f *testing.F) {
	for _, s := range fuzzBodies {
		f.Add(s)
	}
	f.Add("0@0.-.AA a@b.co@c.de a@b.com.1 .@a.bc " + visa + " 4111-1111-1111-1111 " + socialDash)
	f.Add("x://a:b@c.de/?sig=" + made + " eyJ0ZXN0IjoxfQ.eyJ0ZXN0IjoxfQ.xx Bearer " + made + " ghp_" + made[:36])
	p := plan(f, detectors()...)
	f.Fuzz(func(t *testing.T, s string) {
		got := MaskText(s)
		if m := plainForms.FindString(got); m != "" {
			t.Errorf("%q is left of %q", m, s)
		}
		text, counts := p.Text(s)
		if text != got || (len(counts) == 0) != (got == s) && !strings.Contains(s, Masked) {
			t.Errorf("Text gives %q %v, MaskText %q", text, counts, got)
		}
		if strings.Contains(got, Masked) && !strings.Contains(s, Masked) && !strings.Contains(s, `\u00`) {
			checkOrder(t, s, got)
		}
		if !strings.ContainsAny(s, "\n\x00") && !strings.Contains(s, "-----") {
			if stream := whole(t, p, "text/plain", s); stream.Err == "" && stream.Out != got {
				t.Errorf("the stream gives %q, MaskText %q", stream.Out, got)
			}
		}
	})
}

// checkOrder checks that what stays of s stands in got, in its order.
func checkOrder(t *testing.T, s, got string) {
	for part := range strings.SplitSeq(got, Masked) {
		i := strings.Index(s, part)
		if i < 0 {
			t.Fatalf("%q is not in %q", part, s)
		}
		s = s[i+len(part):]
	}
}

func FuzzPathSyntax(f *testing.F) {
	for _, s := range []string{"$", "$.a", "$['a\\'b']", `$["\u00e9"]`, "$[*].*..x[0]", "$..['é']", "$[01]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r := gate.Redaction{Path: path}
		_, err := Compile([]gate.Redaction{r}, nil)
		if check := Check(r); (err == nil) != (check == nil) {
			t.Errorf("Check says %v, Compile says %v", check, err)
		}
	})
}
