package policy

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/countersign/countersign/extproc/strict"
	"github.com/countersign/countersign/extproc/yamlfile"
)

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

// mergeData puts from into into. If both have a value at one place, and not two objects, it returns that place and false.
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

// checkDataPlaces reports data that stands where rules are looked for, or outside the roots of a bundle.
func checkDataPlaces(f *sourceFile, place []string, v any, roots []string, problems *Problems) {
	if len(place) >= 3 && place[0] == "rules" && kindOf(place[2]) != notASet {
		problems.add(f.path, 0, 0, "data.%s is data; only rules can allow, ask, deny, redact or limit", strings.Join(place[:3], "."))
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

// parseJSON reads one JSON value, and keeps numbers as they are written. line is that of the error.
func parseJSON(text []byte) (v any, line int, err error) {
	v, err = strict.Reader{Depth: strict.Unbounded, Maps: true}.Read(text)
	if wrong, ok := errors.AsType[*strict.Error](err); ok {
		line = 1 + bytes.Count(text[:min(wrong.Offset, int64(len(text)))], []byte("\n"))
		err = fmt.Errorf("not JSON that can be trusted: %w", err)
	}
	return v, line, err
}

// parseYAML reads one YAML document as the same JSON.
func parseYAML(text []byte) (v any, line int, err error) {
	root, wrong := yamlfile.Parse(text)
	if wrong == yamlfile.Empty {
		return map[string]any{}, 0, nil
	}
	if wrong != nil {
		return nil, wrong.Line, wrong
	}
	asJSON, wrong := yamlfile.JSON(root)
	if wrong != nil {
		return nil, wrong.Line, wrong
	}
	return parseJSON(asJSON)
}
