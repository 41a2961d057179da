// Package yamlfile reads files of YAML that people write, as strictly as such a file can be read in one way only: one document, no
// key twice, no merge key, no value that JSON does not have. What is wrong is told with its line.
package yamlfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// An Error is one thing that is wrong with a file.
type Error struct {
	Line    int    // from 1; 0 where no line has it
	Key     string // that Message is about; empty where it is about no single one
	Message string
}

func (e *Error) Error() string { return strings.TrimLeft(e.Key+" "+e.Message, " ") }

// Empty says that a file has no document.
var Empty = &Error{Line: 1, Message: "is empty"}

// Parse reads the root of exactly one document; a file of none is [Empty]. With the error that a second document
// begins comes the root of the first. JSON is YAML but for tabs, which valid JSON has between tokens only.
func Parse(text []byte) (*yaml.Node, *Error) {
	if json.Valid(text) {
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	var first, more yaml.Node
	if err := d.Decode(&first); errors.Is(err, io.EOF) {
		return nil, Empty
	} else if err != nil {
		return nil, syntaxError(text, err)
	}
	root := first.Content[0]
	if err := d.Decode(&more); err == nil {
		return root, &Error{Line: more.Line, Message: "a second document begins here: one file is one document"}
	} else if !errors.Is(err, io.EOF) {
		return root, syntaxError(text, err)
	}
	return root, nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntaxError is what the YAML library found. Its parser counts lines from 0, and its scanner from 1; what the parser says begins
// with "did not find expected".
func syntaxError(file []byte, err error) *Error {
	text, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = strings.TrimPrefix(text, m[0])
	}
	named := line > 0
	if !named && !strings.HasPrefix(text, "unknown anchor") {
		line = 1 // the library does not name the first line
	}
	switch {
	case strings.HasPrefix(text, "did not find expected"):
		if last := 1 + bytes.Count(bytes.TrimRight(file, "\n"), []byte("\n")); named && line < last {
			line++
		}
		text += ", here or in what begins here"
	case strings.Contains(text, "a tab character"):
		text += ", here or below: indent with spaces"
	case strings.Contains(text, "cannot start any token"):
		text += ": indent with spaces and not with tabs, and put quotes around a value that begins with @, ` or %"
	case strings.Contains(text, "mapping values are not allowed"):
		text += ": a key is indented further than the one above it, or a value with a colon needs quotes"
	}
	return &Error{Line: line, Message: "is not YAML: " + text}
}

// A Pair is a key of a mapping with its value.
type Pair struct{ Key, Value *yaml.Node }

// Pairs are those of a mapping, each with what is wrong with its key, if something is.
func Pairs(n *yaml.Node) iter.Seq2[Pair, *Error] {
	return func(yield func(Pair, *Error) bool) {
		lines := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			p := Pair{n.Content[i], n.Content[i+1]}
			first, again := lines[p.Key.Value]
			var wrong *Error
			switch tag := p.Key.ShortTag(); {
			case p.Key.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int":
				wrong = &Error{Line: p.Key.Line, Message: "a key must be plain text: put quotes around what YAML reads as something else"}
			case again:
				wrong = &Error{Line: p.Key.Line, Key: p.Key.Value, Message: fmt.Sprintf("stands here a second time: the first is on line %d", first)}
			default:
				lines[p.Key.Value] = p.Key.Line
			}
			if !yield(p, wrong) {
				return
			}
		}
	}
}

// Bounds of what a file is with its aliases written out: an alias of an alias of an alias grows without being long, and an alias
// of what it is in has no end.
const (
	maxNodes = 2_000_000
	maxDepth = 512
)

// JSON writes what root is as JSON, each token on the line that it has in the YAML, so that what is said of lines of the JSON is
// about the file. Numbers that JSON has stay as they are written.
func JSON(root *yaml.Node) ([]byte, *Error) {
	w := &writer{line: 1}
	w.node(root, 0)
	if w.err != nil {
		return nil, w.err
	}
	return w.out.Bytes(), nil
}

type writer struct {
	out   bytes.Buffer
	line  int
	nodes int
	err   *Error // the first
}

func (w *writer) fail(n *yaml.Node, format string, args ...any) {
	if w.err == nil {
		w.err = &Error{Line: n.Line, Message: fmt.Sprintf(format, args...)}
	}
}

func (w *writer) to(line int) {
	for ; w.line < line; w.line++ {
		w.out.WriteByte('\n')
	}
}

func (w *writer) node(n *yaml.Node, depth int) {
	if w.nodes++; w.nodes > maxNodes || depth > maxDepth {
		w.fail(n, "is too large or too deep once its aliases are written out")
	}
	if w.err != nil {
		return
	}
	if n.Kind == yaml.AliasNode {
		w.node(n.Alias, depth+1)
		return
	}
	w.to(n.Line)
	switch tag := n.ShortTag(); {
	case n.Kind == yaml.MappingNode && tag == "!!map":
		w.mapping(n, depth)
	case n.Kind == yaml.SequenceNode && tag == "!!seq":
		w.out.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				w.out.WriteByte(',')
			}
			w.node(item, depth+1)
		}
		w.out.WriteByte(']')
	case n.Kind == yaml.ScalarNode:
		w.scalar(n, tag)
	default:
		w.fail(n, "the tag %s hides a value: remove it", tag)
	}
}

func (w *writer) mapping(n *yaml.Node, depth int) {
	w.out.WriteByte('{')
	first := true
	for p, err := range Pairs(n) {
		if err != nil && w.err == nil {
			w.err = err
		}
		if w.err != nil {
			return
		}
		if !first {
			w.out.WriteByte(',')
		}
		first = false
		w.to(p.Key.Line)
		w.value(p.Key, p.Key.Value)
		w.out.WriteByte(':')
		w.node(p.Value, depth+1)
	}
	w.out.WriteByte('}')
}

func (w *writer) scalar(n *yaml.Node, tag string) {
	switch tag {
	case "!!null":
		w.out.WriteString("null")
	case "!!str", "!!timestamp":
		w.value(n, n.Value)
	case "!!bool":
		// Envoy's YAML parser takes more words for booleans than this one; those are text here, and refused as that.
		yes := strings.EqualFold(n.Value, "true")
		if !yes && !strings.EqualFold(n.Value, "false") {
			w.fail(n, "%q is neither true nor false", n.Value)
		}
		w.value(n, yes)
	case "!!int", "!!float":
		var number any = json.Number(n.Value)
		if !json.Valid([]byte(n.Value)) {
			if err := n.Decode(&number); err != nil {
				w.fail(n, "%s is not a number", n.Value)
			}
		}
		w.value(n, number)
	default:
		w.fail(n, "the tag %s hides a value: remove it", tag)
	}
}

// value writes a value that has no others in it. Not-a-number and the infinities are none.
func (w *writer) value(n *yaml.Node, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		w.fail(n, "%s is not a number that JSON has", n.Value)
	}
	w.out.Write(text)
}
