package web

import (
	"net/url"
	"slices"
	"strings"
)

// Asked is what an agent wrote of its request that targets repeat in the header fields of answers. Such a field is removed where
// it has a value that was taken out of the body, so without a second look an agent could have its guesses repeated, and see by
// the field whether one was right: in the next page's URL, which has the query of this one, or in a file name that the query
// gives. The zero Asked repeats nothing.
//
// So what is the agent's in a field never decides whether it passes. Of a URL that is the path, the authority and the parameters
// of the query that are those of the request: they are not looked for, and the rest is. In other text it cannot be told whose
// a word is, and a field that has one of the agent's does not pass, whatever the body says.
//
// Not found is what a target repeats in another way: within a cursor, say, or out of the request's body.
type Asked struct {
	authority, target, path string
	query                   map[string][]string
}

// NewAsked is of a request with that authority and target.
func NewAsked(authority, target string) Asked {
	path, query, _ := strings.Cut(target, "?")
	return Asked{authority, target, path, parameters(query)}
}

// Values are the values of the query, and the names of those that have none, which other text than URLs may repeat.
func (a Asked) Values() (values []string) {
	for name, list := range a.query {
		for _, v := range list {
			if v == "" {
				v = name
			}
			if !isPlainWord(v) {
				values = append(values, v)
			}
		}
	}
	return values
}

// isPlainWord is true for what names a form or an order (csv, json, desc): file names and sentences have such words anyway.
func isPlainWord(s string) bool {
	return len(s) < 6 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// HasURLs reports whether a field is of URLs, in which a parameter stays a parameter.
func HasURLs(name string) bool { return isNamed(urlFields, name) }

var urlFields = []string{"location", "content-location", "link", "refresh", "operation-location", "azure-asyncoperation"}

// Rest is what the text of such a field has that is not the agent's.
func (a Asked) Rest(text string) string {
	var rest strings.Builder
	for text != "" {
		end := strings.IndexAny(text, "<>\" ")
		if end < 0 {
			end = len(text)
		}
		rest.WriteString(a.restOfURL(text[:end]))
		if end < len(text) {
			rest.WriteByte(text[end])
			end++
		}
		text = text[end:]
	}
	return rest.String()
}

func (a Asked) restOfURL(text string) string {
	text, fragment, hasFragment := strings.Cut(text, "#")
	before, query, hasQuery := strings.Cut(text, "?")
	rest := a.restOfPath(before)
	if hasQuery {
		all := parameters(query)
		rest += "?"
		for pair := range strings.SplitSeq(query, "&") {
			if name, _ := parameter(pair); len(a.query[name]) == 0 || !slices.Equal(all[name], a.query[name]) {
				rest += pair + "&"
			}
		}
	}
	if hasFragment {
		rest += "#" + fragment
	}
	return rest
}

func (a Asked) restOfPath(text string) string {
	scheme, after, absolute := strings.Cut(text, "://")
	if !absolute {
		if text == a.path {
			return ""
		}
		return text
	}
	authority, path := after, ""
	if i := strings.IndexByte(after, '/'); i >= 0 {
		authority, path = after[:i], after[i:]
	}
	if strings.EqualFold(authority, a.authority) {
		authority = ""
	}
	if path == a.path {
		path = ""
	}
	return scheme + "://" + authority + path
}

// parameters are those of a query, each with its values in order.
func parameters(query string) map[string][]string {
	all := map[string][]string{}
	if query == "" {
		return all
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, value := parameter(pair)
		all[name] = append(all[name], value)
	}
	return all
}

func parameter(pair string) (name, value string) {
	name, value, _ = strings.Cut(pair, "=")
	return unescaped(name), unescaped(value)
}

func unescaped(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}
