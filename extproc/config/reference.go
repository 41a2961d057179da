package config

import (
	_ "embed"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"regexp"
	"strings"
)

// The comments of the structs are the manual, so the printed manual is made from their source.
//
//go:embed config.go
var source string

//go:embed resource.go
var resourceSource string

// Key is one key of the configuration file.
type Key struct {
	Path    string // "resources[].listen.address"
	Kind    string // of the resources that have it; "" if all have
	Type    string // "text", "path", "duration", "size", "address", "true or false", "number", "list of …", "mapping", …
	Comment string // what it means, its unit, its default and when it is required
}

// allKeys lists every key of the configuration file, in the order of the structs: what every resource has, then what each kind has.
func allKeys(kinds ...Kind) []Key {
	own := comments(source, resourceSource)
	keys := keysOf(nil, "", reflect.TypeFor[Config](), own)
	for _, k := range kindsOf(kinds) {
		from := len(keys)
		texts := comments(k.Source)
		maps.Copy(texts, own)
		keys = keysOf(keys, "resources[]", reflect.TypeOf(k.New()).Elem(), texts)
		for i := range keys[from:] {
			keys[from+i].Kind = k.Name
		}
	}
	return keys
}

// Reference is the manual of the configuration file as tables in Markdown.
func Reference(kinds ...Kind) string {
	var b strings.Builder
	kind := "none"
	for _, k := range allKeys(kinds...) {
		if k.Kind != kind {
			if kind = k.Kind; kind != "" {
				b.WriteString("\nResources of kind `" + kind + "` also have:\n\n")
			}
			b.WriteString("| key | type | meaning |\n| --- | --- | --- |\n")
		}
		b.WriteString("| `" + k.Path + "` | " + k.Type + " | " + strings.ReplaceAll(k.Comment, "|", "\\|") + " |\n")
	}
	return b.String()
}

func keysOf(keys []Key, prefix string, t reflect.Type, comments map[string]string) []Key {
	for f := range t.Fields() {
		name := f.Tag.Get("yaml")
		if name == "" || name == ",inline" { // what is inline is in the list of all resources
			continue
		}
		path := join(prefix, name)
		keys = append(keys, Key{Path: path, Type: typeName(f.Type), Comment: comments[t.Name()+"."+f.Name]})
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map {
			switch inner.Kind() {
			case reflect.Slice:
				path += "[]"
			case reflect.Map:
				path += ".*"
			default:
			}
			inner = inner.Elem()
		}
		if inner == reflect.TypeFor[Resource]() {
			inner = reflect.TypeFor[Base]()
		}
		if inner.Kind() == reflect.Struct {
			keys = keysOf(keys, path, inner, comments)
		}
	}
	return keys
}

func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Path]():
		return "path"
	case reflect.TypeFor[Duration]():
		return "duration"
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[Address]():
		return "address"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "number"
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		if t.Elem().Kind() == reflect.Struct {
			return "mapping of names to mappings"
		}
		return "mapping of names to text"
	default:
		return "mapping"
	}
}

// goName is a Go name of several words, so that it cannot be an English word.
var goName = regexp.MustCompile(`\b(?:[A-Z][a-z]+|[A-Z]{2,})(?:[A-Z]\w+)\b`)

// inFile replaces the names of Go fields in a field's comment by their keys in the file.
func inFile(comment, field string, keys map[string]string) string {
	if rest, ok := strings.CutPrefix(comment, field); ok && rest != "" && strings.ContainsAny(rest[:1], " :") {
		comment = "`" + keys[field] + "`" + rest
	}
	return goName.ReplaceAllStringFunc(comment, func(name string) string {
		if key := keys[name]; key != "" {
			return "`" + key + "`"
		}
		return name
	})
}

// comments returns the comment of every field of every struct in Go sources, as one line, by "Struct.Field".
func comments(sources ...string) map[string]string {
	var files []*ast.File
	found, keys := map[string]string{}, map[string]string{}
	for _, text := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.ParseComments)
		if err != nil {
			panic("parse the embedded source of a kind: " + err.Error()) // it was compiled
		}
		files = append(files, file)
		ast.Inspect(file, func(n ast.Node) bool {
			if f, ok := n.(*ast.Field); ok && f.Tag != nil && len(f.Names) == 1 {
				keys[f.Names[0].Name] = reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml")
			}
			return true
		})
	}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if t, ok := s.Type.(*ast.StructType); ok {
				for _, f := range t.Fields.List {
					for _, name := range f.Names {
						found[s.Name.Name+"."+name.Name] = inFile(oneLine(f.Doc.Text()+" "+f.Comment.Text()), name.Name, keys)
					}
				}
			}
			return false
		})
	}
	return found
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
