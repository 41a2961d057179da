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

// The struct is the manual, so the manual that is printed comes out of the struct's own source.
//
//go:embed config.go
var source string

//go:embed resource.go
var resourceSource string

// Key is one key of the configuration file.
type Key struct {
	Path    string // "resources[].listen.address"
	Kind    string // of the resources that have it; empty where all have
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
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				path += "[]"
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
		return "mapping of names to text"
	default:
		return "mapping"
	}
}

// goName is a Go name of several words: one that is no word of the language as well.
var goName = regexp.MustCompile(`\b(?:[A-Z][a-z]+|[A-Z]{2,})(?:[A-Z]\w+)\b`)

// inFile is a field's comment as one that speaks of the file: a field's name becomes its key's.
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

// comments are those of every field of every struct of Go sources, "Struct.Field" to one line of text.
func comments(sources ...string) map[string]string {
	var decls []ast.Decl
	found, keys := map[string]string{}, map[string]string{}
	for _, text := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.ParseComments)
		if err != nil {
			panic("parse the embedded source of a kind: " + err.Error()) // it was compiled
		}
		decls = append(decls, file.Decls...)
		ast.Inspect(file, func(n ast.Node) bool {
			if f, ok := n.(*ast.Field); ok && f.Tag != nil && len(f.Names) == 1 {
				keys[f.Names[0].Name] = reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml")
			}
			return true
		})
	}
	for _, decl := range decls {
		d, ok := decl.(*ast.GenDecl)
		if !ok || d.Tok != token.TYPE {
			continue
		}
		for _, spec := range d.Specs {
			s, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			fields, ok := s.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					found[s.Name.Name+"."+name.Name] = inFile(oneLine(f.Doc.Text()+" "+f.Comment.Text()), name.Name, keys)
				}
			}
		}
	}
	return found
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
