package web

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

// Every place where a server looks for parameters.
var places = []struct {
	name string
	read func(pairs string) (*Request, error)
}{
	{"query", func(pairs string) (*Request, error) { r, _, err := read(limits, get("/a?"+pairs), ""); return r, err }},
	{"form", func(pairs string) (*Request, error) { r, _, err := read(limits, post(formType), pairs); return r, err }},
	{"form under another name", func(pairs string) (*Request, error) {
		r, _, err := read(limits, post("content-type: Application/X-URL-Encoded"), pairs)
		return r, err
	}},
	{"untyped body", func(pairs string) (*Request, error) { r, _, err := read(limits, post(), pairs); return r, err }},
}

func TestMethodOverrides(t *testing.T) {
	for _, name := range []string{
		"_method", "_METHOD", "_Method", "%5Fmethod", "_metho%64", // Rails, Laravel, Symfony, WordPress, Spring, Slim, Express
		"+_method", "%20%20_method", "%09_method", "_method+", ".method", "+.method", // PHP
		"]_method", "_method]", "[_method", "[_method]", "[[_method]]", "]]_method]]", "_method[", "_method[]", "_method[a]", "_method]a", "[]_method", "[_method]a", // Rack, qs
		"__method", "__METHOD_OVERRIDE__", "_HttpMethod", "_http_method", "_method_override", // Flask, Salesforce
		"X-HTTP-Method-Override", "x-http-method-override", "X_HTTP_Method_Override", "x-method-override", "X-HTTP-Method", "$method", "$httpMethod", // ASP.NET, ServiceStack
		"_method%C2%A0", "%E2%80%8B_method", "-method",
	} {
		for _, place := range places {
			for _, pairs := range []string{name + "=DELETE", "a=1&" + name + "=DELETE", name} {
				_, err := place.read(pairs)
				say := "request's method"
				if pairs[0] == '[' && place.name == "untyped body" {
					say = "not valid JSON"
				}
				wantRefused(t, err, gate.Unreadable, say)
			}
		}
	}
	for _, body := range []string{`{"_method":"DELETE"}`, `{"a":{},"_METHOD":"DELETE"}`, `{" _method":1}`, `{"\u005fmethod":"DELETE"}`, `{"X-HTTP-Method-Override":"DELETE"}`} {
		for _, contentType := range []string{jsonType, textType, formType, "x: y"} {
			_, _, err := read(limits, post(contentType), body)
			wantRefused(t, err, gate.Unreadable, "request's method")
		}
	}
	for _, pairs := range []string{"method=tools/call", "payment_method=card", "methods[]=GET", "a[_method]=1", "http_method=GET", "httpMethod=GET", "request.method=GET", "_methods=1", "method_id=1"} {
		for _, place := range places {
			if _, err := place.read(pairs); err != nil {
				t.Errorf("%s: %v", pairs, err)
			}
		}
	}
	for _, body := range []string{`{"method":"tools/call","params":{"_method":"x"}}`, `{"httpMethod":"GET"}`, `[{"_method":1}]`} {
		if _, _, err := read(limits, post(jsonType), body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestNamesThatServersReadInOtherWays(t *testing.T) {
	for _, pairs := range []string{
		"?role=admin", "%3Frole=admin", // URLSearchParams, PHP's own server
		"+role=admin", "%20role=admin", "role+=admin", "%0Arole=a", "role%0D=a", "ro%09le=a", "%C2%A0role=a", "%E2%80%8Brole=a", "%EF%BB%BFrole=a", // PHP; those who trim
		"]role=a", "role]=a", "[role]=a", "[role=a", "role[=a", "a[b=c", "a]b[c=d", "a[b]c=d", "a[[b]]=c", "a[b]]=c", "a[b[c]]=d", "[]=a", "a[b]c[d]=e", "a[b].=c", "a[b].c]=d", "a[+]=b", "a[%20b]=c",
		"a" + strings.Repeat("[]", 65) + "=b",
	} {
		for _, place := range places {
			_, err := place.read("x=1&" + pairs)
			wantRefused(t, err, gate.Unreadable, "the name")
			_, err = place.read(pairs)
			wantRefused(t, err, gate.Unreadable, "") // a body that begins with a bracket is JSON that is not valid
		}
	}
}

func TestTwoNamesThatAreOneSomewhere(t *testing.T) {
	for _, pairs := range []string{
		"user.name=a&user_name=b", "user%20name=a&user_name=b", "user.name=a&user[name]=b", "user[name]=a&user_name=b", // PHP, ASP.NET
		"role=a&Role=b", "rO%4Ce=a&role=b", "key=a&%E2%84%AAey=b", "sum=a&%C5%BFum=b", // ASP.NET
		"a[b]=1&a['b']=2", "a[b]=1&a[\"b\"]=2", "a[b]=1&A[B]=2", // Spring
		"a=1&a[]=2", "a[]=1&a=2", "a=1&a[b]=2", "a[b]=1&a[b][c]=2", "a[b][c]=1&a[b]=2", "A=1&a[b]=2", // a list or a map, and not
		"a[]=1&a[0]=2", "a[0]=1&a[]=2", "a[b][]=1&a[b][7]=2", "a[][x]=1&a[0][x]=2", // the first element of PHP's list
		"a[0]=1&a[0].b=2", "a[0].b=1&a[0]=2", "items[0].qty[]=1&items[0].qty[3]=2", // PHP drops what follows a bracket
	} {
		for _, place := range places {
			_, err := place.read(pairs)
			wantRefused(t, err, gate.Unreadable, "one name to some servers")
		}
	}
	for _, body := range []string{`{"user.name":1,"user_name":2}`, `{"role":1," role":2}`, `{"role":1,"Role":2}`, `{"a b":1,"a_b":2}`, `{"a[b]":1,"a.b":2}`} {
		for _, contentType := range []string{jsonType, textType, "x: y"} {
			_, _, err := read(limits, post(contentType), body)
			wantRefused(t, err, gate.Unreadable, "one name to")
		}
	}
}

// What is written in this way by many clients is read as it is written.
func TestNamesThatAreRead(t *testing.T) {
	for _, pairs := range []string{
		"a=1&a=2", "a[]=1&a[]=2", "a[0]=1&a[1]=2", "a[0][x]=1&a[0][y]=2", "user[roles][]=&user[roles][]=1", "a[][x]=1&a[][y]=2",
		"$filter=x&$top=1", "filter[name]=a&filter[age]=1&page[size]=10&sort=-a", "match[]=up&start=0", "items[0].name=a&items[0].qty=2&items[1].name=b",
		"user.name=a&user.age=1", "Filter.1.Name=a&Filter.1.Value.1=b", "api-version=1&api_version_check=2", "first%20name=a&last%20name=b", "a[b.c]=1", "a.b[c]=1",
		"X-Amz-Date=1&X-Amz-Signature=2", "=v", "a=[]&b=]x[", "%C3%A9=1&e=2", "a[b]=1&a[c][d]=2&ab=3", "a_=1&a=2", "_=1699999", "utf8=%E2%9C%93",
	} {
		for _, place := range places {
			r, err := place.read(pairs)
			if err != nil {
				t.Errorf("%s %s: %v", place.name, pairs, err)
				continue
			}
			want, _ := url.ParseQuery(pairs)
			got := url.Values{}
			for _, m := range append(r.Query, r.Form...) {
				got[m.Name] = m.Value.([]string)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s: %s", place.name, pairs, diff)
			}
		}
	}
	for _, body := range []string{`{"service.name":1,"host.name":2," a ":3,"]x[":4}`, `{"a":{"user.name":1,"user_name":2}}`, `{"a":1,"a_b":2,"a-b":3}`} {
		if _, _, err := read(limits, post(jsonType), body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestBodiesWithoutAType(t *testing.T) {
	for _, c := range []struct {
		name, body string
		form       gate.Object
		json       bool
	}{
		{"a form", "a=1&b=2", gate.Object{{Name: "a", Value: []string{"1"}}, {Name: "b", Value: []string{"2"}}}, false},
		{"text", strings.Repeat("x", 100), gate.Object{{Name: strings.Repeat("x", 100), Value: []string{""}}}, false},
		{"JSON", `{"a":"b=c"}`, nil, true},
		{"JSON that could be a form of two pairs", `{"a":"&role=admin&"}`, gate.Object{{Name: `"}`, Value: []string{""}}, {Name: "role", Value: []string{"admin"}}, {Name: `{"a":"`, Value: []string{""}}}, true},
	} {
		r, _, err := read(limits, post(), c.body)
		if err != nil || r.JSON != c.json {
			t.Errorf("%s: JSON %v, %v", c.name, r.JSON, err)
			continue
		}
		if diff := cmp.Diff(c.form, r.Form); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	for _, body := range []string{
		"a=1&_method=DELETE", `{"a":"&_method=DELETE&"}`, "100%", "a;b=c", "\x00\x01", "\x89PNG\r\n", "a=\xff", `["&a=%zz"]`, `{"a":"1;_method=DELETE"}`,
		"--x\r\nContent-Disposition: form-data; name=\"_method\"\r\n\r\nDELETE\r\n--x--\r\n", strings.Repeat("a&", maxPairs+1),
	} {
		_, _, err := read(limits, post(), body)
		wantRefused(t, err, gate.Unreadable, "no Content-Type")
	}
	for _, body := range []string{"100%", "a;b=c", "\x89PNG\r\n\x00", strings.Repeat("a&", maxPairs+1)} {
		r, _, err := read(limits, head("PUT", "/a"), body)
		if err != nil || r.Form != nil || r.JSON {
			t.Errorf("%q: %v, %v", body, r, err)
		}
	}
}

// phpName is the name under which PHP keeps a parameter, as the path of its keys; "" is the next element of a list.
// After php_register_variable_ex.
func phpName(name string) []string {
	name, _, _ = strings.Cut(strings.TrimLeft(name, " "), "\x00")
	base, rest, bracketed := strings.Cut(name, "[")
	base = strings.NewReplacer(" ", "_", ".", "_").Replace(base)
	if base == "" {
		return nil
	}
	path := []string{base}
	for bracketed {
		part, after, closed := strings.Cut(rest, "]")
		if !closed {
			path[len(path)-1] += "_" + strings.NewReplacer(" ", "_", ".", "_", "[", "_").Replace(rest)
			break
		}
		if len(part) == 1 && strings.ContainsAny(part, " \t\r\n\v\f") {
			part = ""
		}
		path = append(path, part)
		rest, bracketed = strings.CutPrefix(after, "[")
	}
	return path
}

var rackPart = regexp.MustCompile(`^[\[\]]*([^\[\]]+)\]*`)

// rackName is the first key of a parameter at Rack up to 3.0, which is all that decides on the method.
func rackName(name string) string {
	if m := rackPart.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// FuzzNames: of names that are accepted, none is a method to PHP or Rack, none is another than it seems to PHP but for dots
// and spaces, and no two are one to PHP or to who ignores case.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "+_method=x", "]_method", "a[b]=1&a[b][c]=2", "a.b&a_b", "A&a", "a[]&a[0]", "a[0].x&a[0]", "a[ ]&a[]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, pairs string) {
		r, _, err := read(limits, post(formType), pairs)
		if err != nil || looksLikeJSON([]byte(pairs)) {
			return
		}
		php := map[string]string{}
		for _, m := range r.Form {
			if strings.EqualFold(rackName(m.Name), "_method") {
				t.Errorf("%q is the method to Rack", m.Name)
			}
			path := phpName(m.Name)
			if len(path) == 0 {
				if m.Name != "" {
					t.Errorf("%q is nothing to PHP", m.Name)
				}
				continue
			}
			if strings.EqualFold(path[0], "_method") {
				t.Errorf("%q is the method to PHP", m.Name)
			}
			for n := 1; n <= len(path); n++ {
				key := strings.Join(path[:n], "\x00")
				other, in := php[key]
				if n < len(path) && in && other == "" {
					continue
				}
				if in && (other == "" || n != len(path) || !tail(other) || !tail(m.Name)) {
					t.Errorf("%q and %q are one to PHP", m.Name, other)
				}
				if php[key] = ""; n == len(path) {
					php[key] = m.Name
				}
			}
		}
		for i, a := range r.Form {
			for _, b := range r.Form[:i] {
				if strings.EqualFold(a.Name, b.Name) {
					t.Errorf("%q and %q differ in case only", a.Name, b.Name)
				}
			}
		}
	})
}

// tail reports whether a name goes on after a bracket, as ASP.NET and Spring write it: "items[0].name". Two of those are
// accepted, though PHP would drop what distinguishes them: no form for PHP has them, and a rule that names one knows its target.
func tail(name string) bool { return strings.Contains(name, "].") }
