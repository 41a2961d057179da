package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/extproc/strict"
)

// maxDataNodes bounds what one YAML file becomes: an alias of an alias of an alias grows without being long.
const maxDataNodes = 2_000_000

// readData makes data of the JSON and YAML files: a file in a directory becomes part of data under the directory's name,
// as with `opa run`. Two files that say different things of one place are a problem, and so is a name that one object has
// twice: another reader of the same file could see the other value.
func (s *source) readData(roots []string, problems *Problems) map[string]any {
	data := map[string]any{}
	for i := range s.files {
		f := &s.files[i]
		if !f.isData(s.bundle) {
			continue
		}
		parse := parseJSON
		if path.Ext(f.name) != ".json" {
			parse = parseYAML
		}
		document, line, err := parse(f.text)
		if err != nil {
			problems.add(f.path, line, 1, "%s", err)
			continue
		}
		place := []string{}
		if dir := path.Dir(f.name); dir != "." {
			place = strings.Split(dir, "/")
		}
		mountData(data, f, place, document, problems)
		checkDataPlaces(f, place, document, roots, problems)
	}
	return data
}

func mountData(data map[string]any, f *sourceFile, place []string, document any, problems *Problems) {
	for i := len(place) - 1; i >= 0; i-- {
		document = map[string]any{place[i]: document}
	}
	object, ok := document.(map[string]any)
	if !ok {
		problems.add(f.path, 1, 1, "a data file at the top must hold an object: its members become data.NAME")
		return
	}
	if at, ok := mergeData(data, object, nil); !ok {
		problems.add(f.path, 0, 0, "data.%s is also in another file, and the two cannot be put together", strings.Join(at, "."))
	}
}

// mergeData puts from into into. When both have a value at one place that are not two objects, it gives that place and
// false.
func mergeData(into, from map[string]any, at []string) ([]string, bool) {
	for name, v := range from {
		old, both := into[name]
		if !both {
			into[name] = v
			continue
		}
		a, isObject := old.(map[string]any)
		b, isObjectToo := v.(map[string]any)
		if !isObject || !isObjectToo {
			return append(at, name), false
		}
		if at, ok := mergeData(a, b, append(at, name)); !ok {
			return at, false
		}
	}
	return nil, true
}

// checkDataPlaces holds data out of the places where rules are looked for, and within the roots of a bundle.
func checkDataPlaces(f *sourceFile, place []string, v any, roots []string, problems *Problems) {
	if len(place) >= 3 && place[0] == "rules" && kindOf(place[2]) != notASet {
		problems.add(f.path, 0, 0, "data.%s is data; only rules can allow, ask, deny or redact", strings.Join(place[:3], "."))
		return
	}
	object, ok := v.(map[string]any)
	if len(place) > 0 && underRoots(place, roots) && place[0] != "rules" {
		return
	}
	if !ok {
		if !underRoots(place, roots) {
			problems.add(f.path, 0, 0, "data.%s is outside the roots of the bundle %q", strings.Join(place, "."), roots)
		}
		return
	}
	for name, member := range object {
		checkDataPlaces(f, append(place[:len(place):len(place)], name), member, roots, problems)
	}
}

// parseJSON reads one JSON value with numbers as they are written. With an error comes the line it was found in.
func parseJSON(text []byte) (v any, line int, err error) {
	v, err = strict.Reader{Depth: strict.Unbounded, Maps: true}.Read(text)
	if wrong, ok := errors.AsType[*strict.Error](err); ok {
		line = 1 + bytes.Count(text[:min(wrong.Offset, int64(len(text)))], []byte("\n"))
		err = fmt.Errorf("not JSON that can be trusted: %w", err)
	}
	return v, line, err
}

// parseYAML reads one YAML document to what the same JSON would be. What JSON cannot say, and what two readers of YAML
// understand differently (merge keys, names that are not text, binary), is an error.
func parseYAML(text []byte) (v any, line int, err error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	switch err := d.Decode(&document); {
	case errors.Is(err, io.EOF):
		return map[string]any{}, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("not YAML: %w", err)
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, more.Line, errors.New("there is more than one YAML document in the file")
	}
	y := yamlReader{left: maxDataNodes}
	v, err = y.value(&document, 0)
	return v, y.line, err
}

type yamlReader struct {
	left int // nodes that may still come
	line int // of the node that was read last
}

func (y *yamlReader) value(n *yaml.Node, depth int) (any, error) {
	y.left--
	if y.left < 0 || depth > maxDepth {
		return nil, errors.New("the YAML is too large or too deep once its aliases are written out")
	}
	y.line = n.Line
	switch n.Kind {
	case yaml.DocumentNode:
		return y.value(n.Content[0], depth+1)
	case yaml.AliasNode:
		return y.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			var err error
			if list[i], err = y.value(item, depth+1); err != nil {
				return nil, err
			}
		}
		return list, nil
	case yaml.MappingNode:
		return y.object(n, depth)
	case yaml.ScalarNode:
		return y.scalar(n)
	default:
		return nil, errors.New("this cannot be read as data")
	}
}

func (y *yamlReader) object(n *yaml.Node, depth int) (any, error) {
	object := make(map[string]any, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		y.line = key.Line
		if tag := key.ShortTag(); key.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" {
			return nil, fmt.Errorf("the name %q is not text; write it in quotes", key.Value)
		}
		if _, twice := object[key.Value]; twice {
			return nil, fmt.Errorf("the name %q is in one object twice", key.Value)
		}
		v, err := y.value(n.Content[i+1], depth+1)
		if err != nil {
			return nil, err
		}
		object[key.Value] = v
	}
	return object, nil
}

func (y *yamlReader) scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!str", "!!timestamp":
		return n.Value, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int", "!!float":
		if _, _, err := parseJSON([]byte(n.Value)); err == nil {
			return json.Number(n.Value), nil
		}
		var v any
		if err := n.Decode(&v); err != nil {
			return nil, err
		}
		text, err := json.Marshal(v) // refuses .inf and .nan
		if err != nil {
			return nil, fmt.Errorf("the number %s has no JSON form", n.Value)
		}
		return json.Number(text), nil
	default:
		return nil, fmt.Errorf("a value of type %s has no JSON form", n.ShortTag())
	}
}
