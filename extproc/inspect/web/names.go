package web

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// Frameworks change the names of parameters. PHP drops spaces before a name and replaces dots and spaces in it by "_". PHP,
// Rack, Rails and qs (Express) read brackets as lists and maps, and unmatched brackets each in its own way: Rack reads
// "]_method" and "[_method]" as "_method", PHP reads "a[b" as "a_b" and "a[b]c" as "a[b]". ASP.NET, Spring and jQuery's forms
// take "a.b", "a[b]" and "a['b']" for the same. ASP.NET ignores case. So a name must be in a plain form, and no two names of
// a request may be the same to any of these frameworks.

// overridesMethod reports whether a server could take a parameter of this name for the request's method. Most use _method
// (Rails, Laravel, Symfony, WordPress, Spring, Express, Phoenix); others are __METHOD_OVERRIDE__ (Flask), _HttpMethod
// (Salesforce), X-HTTP-Method-Override (ASP.NET, ServiceStack). A bare "method" is a parameter like any other.
func overridesMethod(name string) bool {
	if !strings.Contains(strings.ToLower(name), "method") {
		return false
	}
	name = strings.TrimLeftFunc(name, func(c rune) bool { return blank(c) || c == '[' || c == ']' })
	if end := strings.IndexAny(name, "[]"); end >= 0 {
		name = name[:end]
	}
	letters := strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c
		}
		return -1
	}, fold(name))
	switch letters {
	case "METHODOVERRIDE", "HTTPMETHODOVERRIDE", "XHTTPMETHODOVERRIDE", "XMETHODOVERRIDE", "XHTTPMETHOD", "XTUNNELEDMETHOD":
		return true
	case "METHOD", "HTTPMETHOD":
		return strings.IndexByte("_.$-", name[0]) >= 0
	default:
		return false
	}
}

// checkName refuses the name of a parameter that servers read in different ways. what is "query", "form" or the like.
func checkName(name, what string) error {
	switch {
	case overridesMethod(name):
		return unreadable("The request's %s has %.100q, which some servers take for the request's method. Send the method that is meant.", what, name)
	case strings.HasPrefix(name, "?"):
		return unreadable("The request's %s has the name %.100q, whose question mark some servers drop. Send the name that is meant.", what, name)
	case strings.TrimFunc(name, blank) != name || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' }):
		return unreadable("The request's %s has the name %.100q, with white space or a control character that some servers drop. Send the name that is meant.", what, name)
	case strings.ContainsAny(name, "[]") && !plainName.MatchString(name):
		return unreadable("The request's %s has the name %.100q, whose brackets servers read in different ways. Write name[part], or name.part.", what, name)
	}
	return nil
}

// plainName is a name without brackets, or name[part][part] with or without .name after a part, up to the 64 levels that PHP
// reads. A part does not begin with white space: PHP takes "[ ]" for "[]".
var plainName = regexp.MustCompile(`^[^\[\]]+(\[([^\[\]\s][^\[\]]*)?\](\.[^\[\]]+)?){0,64}$`)

// checkNames refuses two names that some server takes for one. names has each name once.
func checkNames(names []string, what string) error {
	if len(names) < 2 {
		return nil
	}
	one := func(a, b string) error {
		return unreadable("The request's %s has the names %.100q and %.100q, which are one name to some servers. Send one of them.", what, a, b)
	}
	seen := make(map[string]string, len(names)) // by key
	for _, name := range names {
		key, _ := nameKey(name)
		if other, in := seen[key]; in {
			return one(other, name)
		}
		seen[key] = name
	}
	type element struct {
		name    string
		indexed bool
	}
	lists := map[string]element{}
	for _, name := range names {
		key, steps := nameKey(name)
		for _, s := range steps {
			within := key[:s.key] // PHP loses "a" beside "a[b]", and reads "a[b].c" as "a[b]"
			if other, in := seen[within]; in {
				return one(other, name)
			}
			if part, _, _ := strings.Cut(name[s.name:], "]"); strings.Trim(part[1:], "0123456789") == "" && part[0] == '[' {
				e := element{name, part != "["} // "a[]" and "a[0]" can be the same element
				if other, in := lists[within]; in && other.indexed != e.indexed {
					return one(other.name, name)
				}
				lists[within] = e
			}
		}
	}
	return nil
}

// step is an offset in a name, and in its key, at which the name goes into a list or a map ("[") or on after one ("].").
type step struct{ name, key int }

// nameKey returns the same key for names that some framework takes for one: it ignores case, replaces dots, spaces and
// opening brackets by underscores, and drops closing brackets and quotes.
func nameKey(name string) (key string, steps []step) {
	name = strings.TrimFunc(name, blank)
	var b strings.Builder
	for at, c := range name {
		if c == '[' || c == '.' && at > 0 && name[at-1] == ']' {
			steps = append(steps, step{at, b.Len()})
		}
		switch c {
		case '.', ' ', '[':
			b.WriteByte('_')
		case ']', '"', '\'':
		default:
			b.WriteRune(foldRune(c))
		}
	}
	return b.String(), steps
}

// topNames checks the names of the outermost object: Laravel and others read them as parameters. Names that differ only in
// case are refused already, so only names with other than plain characters are compared.
func (r *jsonReader) topNames(members []jsonMember) error {
	plain := true
	for _, m := range members {
		name := r.nameOf(m)
		if overridesMethod(string(name)) {
			return unreadable("The %s has the name %.100q, which some servers take for the request's method. Send the method that is meant.", r.what, name)
		}
		for _, c := range name {
			plain = plain && c > ' ' && c < utf8.RuneSelf && strings.IndexByte(`.[]"'`, c) < 0
		}
	}
	if plain {
		return nil
	}
	seen := make(map[string]string, len(members))
	for _, m := range members {
		name := string(r.nameOf(m))
		key, _ := nameKey(name)
		if other, in := seen[key]; in {
			return unreadable("The %s has the names %.100q and %.100q, which are one name to some servers. Send one of them.", r.what, other, name)
		}
		seen[key] = name
	}
	return nil
}
