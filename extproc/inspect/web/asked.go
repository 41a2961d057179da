package web

import (
	"net/url"
	"slices"
	"strings"
)

// Asked is the part of a request that targets repeat in the header fields of their answers: its authority, path and query.
//
// A field of an answer is removed if it holds a value that was redacted from the body. An agent could use that to guess: it
// puts a guess into the query, the target repeats it (in the next page's URL, in a file name), and the field's absence says
// that the guess was right. So what the agent itself wrote never decides whether a field passes. In a URL the request's own
// authority, path and query parameters are skipped, and only the rest is searched. In other text nobody can tell whose a
// word is, so a field that repeats a value of the query is removed, whatever the body says.
//
// It does not find what a target repeats in another way: in a cursor, say, or from the request's body.
//
// The zero Asked skips nothing.
type Asked struct {
	authority, path string
	query           map[string][]string
}

// NewAsked returns what a target may repeat of a request with that authority and request-target.
func NewAsked(authority, target string) Asked {
	path, query, _ := strings.Cut(target, "?")
	return Asked{authority, path, parameters(query)}
}

// Values returns the values of the query's parameters, and the names of parameters without a value.
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

// isPlainWord reports whether s is a short word such as csv, json or desc, which file names and sentences have anyway.
func isPlainWord(s string) bool {
	return len(s) < 6 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// HasURLs reports whether the field of that name holds URLs.
func HasURLs(name string) bool { return isNamed(urlFields, name) }

var urlFields = []string{"location", "content-location", "link", "refresh", "operation-location", "azure-asyncoperation"}

// Rest returns the text of a field of URLs without what the request had too.
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

// parameters returns the values of each parameter of a query, in order.
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
