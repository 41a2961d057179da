package xds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parseYAML reads text as exactly one document. JSON is YAML but for tabs, which valid JSON has between tokens only.
func parseYAML(text []byte) (*yaml.Node, error) {
	if json.Valid(text) {
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("is empty")
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(&more); err == nil {
		return nil, fmt.Errorf("line %d: a second document begins here, which Envoy does not read", more.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	return doc.Content[0], nil
}

// lineError is an error that has a line.
type lineError struct {
	line    int
	message string
}

func (e *lineError) Error() string { return e.message }

// maxNodes bounds a file with its aliases written out.
const maxNodes = 2_000_000

// jsonWriter writes a YAML tree as JSON, each token on the line that it has in the YAML, so that what the JSON parser says of
// lines is about the file.
type jsonWriter struct {
	out   bytes.Buffer
	line  int
	nodes int
}

func writeJSON(root *yaml.Node) ([]byte, error) {
	w := &jsonWriter{line: 1}
	if err := w.node(root); err != nil {
		return nil, err
	}
	return w.out.Bytes(), nil
}

func (w *jsonWriter) to(line int) {
	for ; w.line < line; w.line++ {
		w.out.WriteByte('\n')
	}
}

func (w *jsonWriter) node(n *yaml.Node) error {
	if w.nodes++; w.nodes > maxNodes {
		return &lineError{n.Line, "is too large once its aliases are written out"}
	}
	if n.Kind == yaml.AliasNode {
		return w.node(n.Alias)
	}
	w.to(n.Line)
	if n.Tag != "" && !strings.HasPrefix(n.Tag, "!!") {
		return &lineError{n.Line, fmt.Sprintf("the tag %s hides a value from this check: remove it", n.Tag)}
	}
	switch n.Kind {
	case yaml.MappingNode:
		return w.mapping(n)
	case yaml.SequenceNode:
		w.out.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				w.out.WriteByte(',')
			}
			if err := w.node(item); err != nil {
				return err
			}
		}
		w.out.WriteByte(']')
		return nil
	default:
		return w.scalar(n)
	}
}

func (w *jsonWriter) mapping(n *yaml.Node) error {
	w.out.WriteByte('{')
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			return &lineError{key.Line, "a key must be plain text"}
		}
		if first, again := seen[key.Value]; again {
			return &lineError{key.Line, fmt.Sprintf("%s stands here a second time: the first is on line %d", key.Value, first)}
		}
		seen[key.Value] = key.Line
		if i > 0 {
			w.out.WriteByte(',')
		}
		w.to(key.Line)
		w.text(key.Value)
		w.out.WriteByte(':')
		if err := w.node(n.Content[i+1]); err != nil {
			return err
		}
	}
	w.out.WriteByte('}')
	return nil
}

func (w *jsonWriter) scalar(n *yaml.Node) error {
	switch n.Tag {
	case "!!null":
		w.out.WriteString("null")
	case "!!bool":
		// Envoy's YAML parser takes more words for booleans than this one; those are text here, and refused as that.
		w.out.WriteString(strconv.FormatBool(strings.EqualFold(n.Value, "true")))
	case "!!int", "!!float":
		var number any
		if err := n.Decode(&number); err != nil {
			return &lineError{n.Line, fmt.Sprintf("%s is not a number", n.Value)}
		}
		if f, ok := number.(float64); ok && (math.IsInf(f, 0) || math.IsNaN(f)) {
			return &lineError{n.Line, fmt.Sprintf("%s is not a number that JSON has", n.Value)}
		}
		text, err := json.Marshal(number)
		if err != nil {
			return &lineError{n.Line, fmt.Sprintf("%s is not a number", n.Value)}
		}
		w.out.Write(text)
	default:
		w.text(n.Value)
	}
	return nil
}

func (w *jsonWriter) text(s string) {
	text, err := json.Marshal(s)
	if err != nil { // a string always marshals
		panic(err)
	}
	w.out.Write(text)
}

// place is where in the file a message stands.
type Place struct {
	node *yaml.Node // nil when the file does not say it
	line int
}

// At follows keys and indices from p. Where the file has no such thing it is the last place that it has.
func (p Place) At(steps ...any) Place {
	for _, step := range steps {
		next, ok := p.step(step)
		if !ok {
			return p
		}
		p = next
	}
	return p
}

func (p Place) step(step any) (Place, bool) {
	n := p.node
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil {
		return p, false
	}
	switch step := step.(type) {
	case int:
		if n.Kind == yaml.SequenceNode && step < len(n.Content) {
			return Place{n.Content[step], n.Content[step].Line}, true
		}
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if key := n.Content[i]; key.Value == step || key.Value == camel(step) {
				return Place{n.Content[i+1], key.Line}, true
			}
		}
	}
	return p, false
}

// camel is the other spelling that JSON has for a field: max_retries, maxRetries.
func camel(name string) string {
	var out strings.Builder
	for i, part := range strings.Split(name, "_") {
		if i > 0 && part != "" {
			part = strings.ToUpper(part[:1]) + part[1:]
		}
		out.WriteString(part)
	}
	return out.String()
}
