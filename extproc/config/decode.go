package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/extproc/yamlfile"
)

// decoder turns one YAML document into a struct, strictly. Unlike the YAML library's own decoder it goes on after a problem,
// and reports the line and the whole key of each.
type decoder struct {
	dir      string // relative paths are relative to it
	file     string
	kinds    []Kind
	lines    map[string]int // key path -> line
	problems []Problem
	agents   []Agent // of the file, for what a kind says of them
}

func (d *decoder) problem(line int, key, format string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.file, Line: line, Key: key, Message: fmt.Sprintf(format, args...)})
}

// unread reports whether key, or one above it, has a problem already. More problems of it would only follow from that one.
func (d *decoder) unread(key string) bool {
	for ; key != ""; key = above(key) {
		if slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Key == key }) {
			return true
		}
	}
	return false
}

// above returns the key that contains key: "resources[0].listen", then "resources[0]", "resources", "".
func above(key string) string { return key[:max(0, strings.LastIndexAny(key, ".["))] }

func (d *decoder) decode(n *yaml.Node, key string, v reflect.Value) {
	if key != "" {
		d.lines[key] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.problem(n.Line, key, "anchors and aliases are not accepted: write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		d.problem(n.Line, key, "has no value: give it one, or remove the key")
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(n, key, v)
	case reflect.Interface: // a Resource
		d.resource(n, key, v)
	case reflect.Slice:
		d.sequence(n, key, v)
	case reflect.Map:
		d.named(n, key, v)
	default:
		d.scalar(n, key, v)
	}
}

func (d *decoder) mapping(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problem(n.Line, key, "wants a mapping of keys to values, not %s", describeNode(n))
		return
	}
	fields, names := fieldsOf(v.Type())
	d.eachKey(n, key, func(name *yaml.Node, value *yaml.Node) {
		at, ok := fields[name.Value]
		if !ok && v.Type() == reflect.TypeFor[unknown]() {
			return
		}
		if !ok {
			d.problem(name.Line, join(key, name.Value), "is not a key that is known here%s", suggest(name.Value, names))
			return
		}
		d.decode(value, join(key, name.Value), v.FieldByIndex(at))
	})
}

// eachKey calls f for each key of n, and reports keys that are there twice.
func (d *decoder) eachKey(n *yaml.Node, key string, f func(name, value *yaml.Node)) {
	for p, wrong := range yamlfile.Pairs(n) {
		switch {
		case wrong == nil:
			f(p.Key, p.Value)
		case wrong.Key == "":
			d.problem(wrong.Line, key, "%s", wrong.Message)
		default:
			d.problem(wrong.Line, join(key, wrong.Key), "%s", wrong.Message)
		}
	}
}

func (d *decoder) sequence(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n.Line, key, "wants a list, not %s: write it as [value] or one \"- value\" a line", describeNode(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.decode(item, key+"["+strconv.Itoa(i)+"]", list.Index(i))
	}
	if len(n.Content) == 0 && (key == "people.audience" || slices.Contains(neverEmpty, lastOf(key))) {
		d.problem(n.Line, key, "is empty: name at least one, or leave the key out")
	}
	v.Set(list)
}

// named is a mapping whose names the file chooses, to text or to mappings of one struct.
func (d *decoder) named(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.problem(n.Line, key, "wants a %s, not %s", typeName(v.Type()), describeNode(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	d.eachKey(n, key, func(name, value *yaml.Node) {
		one := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, join(key, name.Value), one)
		m.SetMapIndex(reflect.ValueOf(name.Value), one)
	})
	v.Set(m)
}

func (d *decoder) scalar(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.problem(n.Line, key, "wants a single value, not %s", describeNode(n))
		return
	}
	var err error
	switch p := v.Addr().Interface().(type) {
	case *string:
		if n.Tag != "!!str" {
			err = fmt.Errorf("wants text, and YAML reads %s as %s: put it in quotes", n.Value, strings.TrimPrefix(n.Tag, "!!"))
		}
		*p = n.Value
	case *Path:
		*p = resolvePath(d.dir, n.Value)
	case *Address:
		*p = resolveAddress(d.dir, n.Value)
	case *Duration:
		if *p, err = parseDuration(n.Value); err == nil && *p == 0 {
			*p, err = zeroDuration(key)
		}
	case *Size:
		if *p, err = parseSize(n.Value); err == nil && *p == 0 {
			err = errZero
		}
	case *bool:
		if n.Tag != "!!bool" || !strings.EqualFold(n.Value, "true") && !strings.EqualFold(n.Value, "false") {
			err = fmt.Errorf("wants true or false, not %q", n.Value)
		}
		*p = strings.EqualFold(n.Value, "true")
	case *int:
		if *p, err = strconv.Atoi(n.Value); err != nil {
			err = fmt.Errorf("wants a whole number, not %q", n.Value)
		} else if *p == 0 && lastOf(key) != "concurrency" {
			err = errZero
		}
	default:
		err = fmt.Errorf("has a type (%s) that this decoder does not know", v.Type())
	}
	if err != nil {
		d.problem(n.Line, key, "%s", err)
	}
}

// A key that is left out has its default. One that is written as 0 or as an empty list means just that, if it can mean
// something; if it can only be a mistake, it is a problem.
var (
	errZero = errors.New("is 0, which cannot work: leave the key out for the default")

	// noTime are the durations that may be 0.
	noTime = []string{"hold", "skew", "drain", "timeout"}
	// neverEmpty are lists that mean "any" if they are left out, so that an empty one is ambiguous.
	neverEmpty = []string{"subjects", "types", "tenants", "acr"}
)

// zeroDuration returns what a duration of 0 for key becomes: a nanosecond, so that SetDefaults can tell it from one that was
// left out. For "timeout", 0 is the default.
func zeroDuration(key string) (Duration, error) {
	switch name := lastOf(key); {
	case !slices.Contains(noTime, name):
		return 0, errZero
	case name == "timeout":
		return 0, nil
	default:
		return Duration(time.Nanosecond), nil
	}
}

// lastOf returns the last name of a key: "hold" of "resources[0].hold".
func lastOf(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// fieldsOf returns the fields of a struct by their keys, including those of structs that it embeds inline.
func fieldsOf(t reflect.Type) (index map[string][]int, names []string) {
	index = map[string][]int{}
	for f := range t.Fields() {
		switch name := f.Tag.Get("yaml"); name {
		case "":
		case ",inline":
			inner, more := fieldsOf(f.Type)
			for _, name := range more {
				index[name] = append(slices.Clone(f.Index), inner[name]...)
			}
			names = append(names, more...)
		default:
			index[name] = f.Index
			names = append(names, name)
		}
	}
	return index, names
}

func (d *decoder) kindNames() []string {
	var names []string
	for _, k := range d.kinds {
		names = append(names, k.Name)
	}
	return names
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func describeNode(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		return strconv.Quote(n.Value)
	default:
		return "this"
	}
}

// suggest names the known key that is closest to the unknown one, or lists them all.
func suggest(name string, names []string) string {
	best, distance := "", 3
	for _, n := range names {
		if d := editDistance(name, n); d < distance {
			best, distance = n, d
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	slices.Sort(names)
	return ": known are " + strings.Join(names, ", ")
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost++
			}
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
