package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
)

// NamedPath is a file or directory that a configuration names.
type NamedPath struct {
	Key  string // "resources[0].credential.value_file"
	Path Path
}

// Paths lists the files and directories that c names, in the order of the struct, without keys that are not set.
func (c *Config) Paths() []NamedPath { return pathsIn(nil, "", reflect.ValueOf(c)) }

func pathsIn(list []NamedPath, key string, v reflect.Value) []NamedPath {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			list = pathsIn(list, key, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			list = pathsIn(list, fmt.Sprintf("%s[%d]", key, i), v.Index(i))
		}
	case reflect.Map:
		for _, name := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) }) {
			list = pathsIn(list, join(key, name.String()), v.MapIndex(name))
		}
	case reflect.Struct:
		for f, value := range v.Fields() {
			if name := f.Tag.Get("yaml"); f.Anonymous {
				list = pathsIn(list, key, value)
			} else if name != "" {
				list = pathsIn(list, join(key, name), value)
			}
		}
	default:
		if p, ok := v.Interface().(Path); ok && p != "" {
			list = append(list, NamedPath{key, p})
		}
	}
	return list
}

// Problem returns a problem of key, with its line.
func (c *Config) Problem(key, message string) Problem {
	return Problem{File: c.file, Line: c.lines[key], Key: key, Message: message}
}
