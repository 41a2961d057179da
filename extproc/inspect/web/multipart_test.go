package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/gate"
)

const (
	partsType = "content-type: multipart/form-data; boundary=x"
	mixedType = "content-type: multipart/mixed; boundary=x"
)

// crlf ends lines as multipart has them.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// field is a part of a form; head lines after the first come in more.
func field(name, value string, more ...string) string {
	return crlf("--x\nContent-Disposition: form-data; name=\"" + name + "\"" + strings.Join(append([]string{""}, more...), "\n") + "\n\n" + value + "\n")
}

const end = "--x--\r\n"

func TestMultipartThatIsRead(t *testing.T) {
	large := strings.Repeat("x", maxPartText+1)
	for _, c := range []struct {
		name, contentType, body, want string
	}{
		{"a field", partsType, field("a", "b") + end, `[{"bytes":1,"headers":{"content-disposition":["form-data; name=\"a\""]},"name":"a","sha256":"$b","type":"","value":"b"}]`},
		{"no part", partsType, "--x--\r\n", `[]`},
		{"no line break at the end", partsType, field("a", "") + "--x--", `[{"bytes":0,"headers":{"content-disposition":["form-data; name=\"a\""]},"name":"a","sha256":"$","type":"","value":""}]`},
		{
			"a file, as curl sends it", partsType, crlf("--x\nContent-Disposition: form-data; name=\"f\"; filename=\"a b.PNG\"\nContent-Type: image/png\n\n\x89PNG\x00\n") + end,
			`[{"bytes":5,"filename":"a b.PNG","headers":{"content-disposition":["form-data; name=\"f\"; filename=\"a b.PNG\""],"content-type":["image/png"]},"name":"f","sha256":"$` + "\x89PNG\x00" + `","type":"image/png"}]`,
		},
		{
			"a file without a name, which Django and Go read as a value", partsType, crlf("--x\nContent-Disposition: form-data; name=\"f\"; filename=\"\"\nContent-Type: application/octet-stream\n\nb\n") + end,
			`[{"bytes":1,"filename":"","headers":{"content-disposition":["form-data; name=\"f\"; filename=\"\""],"content-type":["application/octet-stream"]},"name":"f","sha256":"$b","type":"application/octet-stream","value":"b"}]`,
		},
		{
			"a file of text", partsType, crlf("--x\nContent-Disposition: form-data; name=\"f\"; filename=\"é.csv\"\nContent-Type: Text/CSV; charset=utf-8\n\n1,2\n3,4\n") + end,
			`[{"bytes":8,"filename":"é.csv","headers":{"content-disposition":["form-data; name=\"f\"; filename=\"é.csv\""],"content-type":["Text/CSV; charset=utf-8"]},"name":"f","sha256":"$1,2` + "\r\n" + `3,4","type":"text/csv","value":"1,2\r\n3,4"}]`,
		},
		{
			"a large file of text", partsType, crlf("--x\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\n\n"+large+"\n") + end,
			`[{"bytes":65537,"filename":"a","headers":{"content-disposition":["form-data; name=\"f\"; filename=\"a\""]},"name":"f","sha256":"$` + large + `","type":""}]`,
		},
		{
			"a file and a field of .NET, without quotes", partsType, crlf("--x\nContent-Type: text/plain; charset=utf-8\nContent-Disposition: form-data; name=a\n\nb\n--x\nContent-Disposition: form-data; name=f; filename=c.txt; filename*=utf-8''c.txt\n\nb\n") + end,
			`[{"bytes":1,"headers":{"content-disposition":["form-data; name=a"],"content-type":["text/plain; charset=utf-8"]},"name":"a","sha256":"$b","type":"text/plain","value":"b"},` +
				`{"bytes":1,"filename":"c.txt","headers":{"content-disposition":["form-data; name=f; filename=c.txt; filename*=utf-8''c.txt"]},"name":"f","sha256":"$b","type":"","value":"b"}]`,
		},
		{
			"a field whose type says bytes", partsType, field("role", "b", "Content-Type: application/octet-stream") + end,
			`[{"bytes":1,"headers":{"content-disposition":["form-data; name=\"role\""],"content-type":["application/octet-stream"]},"name":"role","sha256":"$b","type":"application/octet-stream","value":"b"}]`,
		},
		{
			"JSON with a file, as Google's APIs take it", "content-type: multipart/related; boundary=\"x\"", crlf("--x\nContent-Type: application/json\n\n{\"a\":1}\n--x\nContent-Type: image/png\nContent-Transfer-Encoding: binary\n\n\xff\n") + end,
			`[{"bytes":7,"headers":{"content-type":["application/json"]},"sha256":"${"a":1}","type":"application/json","value":"{\"a\":1}"},` +
				`{"bytes":1,"headers":{"content-transfer-encoding":["binary"],"content-type":["image/png"]},"sha256":"$` + "\xff" + `","type":"image/png"}]`,
		},
		{
			"a batch", mixedType, crlf("--x\nContent-Type: application/http\nContent-ID: <1>\n\nDELETE /a HTTP/1.1\n\n\n") + end,
			`[{"bytes":22,"headers":{"content-id":["<1>"],"content-type":["application/http"]},"sha256":"$` + "DELETE /a HTTP/1.1\r\n\r\n" + `","type":"application/http","value":"DELETE /a HTTP/1.1\r\n\r\n"}]`,
		},
		{"a part without a head", mixedType, "--x\r\n\r\nb\r\n" + end, `[{"bytes":1,"headers":{},"sha256":"$b","type":"","value":"b"}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, i, err := read(Options{MaxBody: 1 << 20}, post(c.contentType), c.body)
			if err != nil {
				t.Fatal(err)
			}
			got, err := gate.AppendJSON(nil, r.Multipart)
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			for at := strings.Index(want, `"$`); at >= 0; at = strings.Index(want, `"$`) {
				text, rest, _ := strings.Cut(want[at+2:], `","type"`)
				sum := sha256.Sum256([]byte(text))
				want = want[:at+1] + hex.EncodeToString(sum[:]) + `","type"` + rest
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Error(diff)
			}
			if r.JSON || r.Form != nil || string(i.Body()) != c.body {
				t.Errorf("JSON %v, form %v, body %q", r.JSON, r.Form, i.Body())
			}
		})
	}
}

func TestMultipartThatIsRefused(t *testing.T) {
	disposition := func(value string) string { return crlf("--x\nContent-Disposition: "+value+"\n\nb\n") + end }
	for _, c := range []struct{ name, contentType, body, say string }{
		{"no boundary", "content-type: multipart/form-data", field("a", "b") + end, "no boundary"},
		{"two boundaries", "content-type: multipart/form-data; boundary=x; boundary=y", field("a", "b") + end, "cannot be read"},
		{"two boundaries, one in quotes", `content-type: multipart/form-data; a="; boundary=y"; boundary=x`, field("a", "b") + end, "more than one"},
		{"two boundaries, one continued", "content-type: multipart/form-data; boundary*0=x; boundary*1=y", field("a", "b") + end, "more than one"},
		{"a boundary that is encoded", "content-type: multipart/form-data; boundary*=utf-8''x", field("a", "b") + end, "no boundary"},
		{"a boundary with an escape", `content-type: multipart/form-data; boundary="x\/y"`, field("a", "b") + end, "an escape"},
		{"a boundary with a space", `content-type: multipart/form-data; boundary="x y"`, field("a", "b") + end, "no boundary"},
		{"a boundary with a comma, where PHP ends it", `content-type: multipart/form-data; boundary="x,y"`, field("a", "b") + end, "no boundary"},
		{"a boundary of 71 characters", "content-type: multipart/form-data; boundary=" + strings.Repeat("x", 71), field("a", "b") + end, "no boundary"},
		{"another boundary", partsType, strings.ReplaceAll(field("a", "b")+end, "--x", "--y"), "begin with its boundary"},
		{"text before the first part", partsType, "a\r\n" + field("a", "b") + end, "begin with its boundary"},
		{"a line before the first part", partsType, "\r\n" + field("a", "b") + end, "begin with its boundary"},
		{"text after the last", partsType, field("a", "b") + end + "a", "goes on after"},
		{"a part after the last", partsType, field("a", "b") + end + field("_method", "DELETE") + end, "goes on after"},
		{"no end", partsType, field("a", "b"), "does not end"},
		{"half an end", partsType, field("a", "b") + "--x-", "alone on its line"},
		{"lines without CR", partsType, strings.ReplaceAll(field("a", "b")+end, "\r", ""), "CR LF"},
		{"a part that ends without CR", partsType, strings.Replace(field("a", "b")+end, "b\r\n", "b\n", 1), "CR LF"},
		{"a head that ends without CR", partsType, strings.Replace(field("a", "b")+end, "\"\r\n\r\n", "\"\r\n\n", 1), "header fields do not end"},
		{"a head line without CR", partsType, strings.Replace(field("a", "b", "X: y")+end, "\r\nX", "\nX", 1), "header line"},
		{"a boundary within a line", partsType, field("a", "b--x") + end, "middle of a line"},
		{"a part in a part, to who looks for LF alone", partsType, field("a", "b\n--x") + end, "header fields do not end"},
		{"a boundary that goes on", partsType, field("a", "b") + "--xy\r\n\r\n" + end, "alone on its line"},
		{"white space after a boundary", partsType, strings.Replace(field("a", "b")+end, "--x\r\n", "--x \r\n", 1), "alone on its line"},
		{"a boundary in a head", partsType, crlf("--x\nContent-Disposition: form-data; name=\"a\"\nX: --x\n\nb\n") + end, "header fields do not end"},
		{"a part that ends with its head", partsType, crlf("--x\nContent-Disposition: form-data; name=\"a\"\n\n") + end, "middle of a line"},
		{"a head that is too long", partsType, field("a", "b", "X: "+strings.Repeat("x", maxPartHead)) + end, "header fields do not end"},
		{"a head line that is continued", partsType, field("a", "b", "X: y", " z") + end, "header line"},
		{"a head line without a colon", partsType, field("a", "b", "X") + end, "header line"},
		{"a space before the colon", partsType, field("a", "b", "X : y") + end, "header line"},
		{"NUL in a head", partsType, field("a", "b", "X: \x00") + end, "header line"},
		{"a pseudo-header", partsType, field("a", "b", ":x: y") + end, "NAME"},
		{"two dispositions", partsType, field("a", "b", "content-disposition: form-data; name=\"c\"") + end, "twice"},
		{"two types", partsType, field("a", "b", "Content-Type: text/plain", "Content-Type: text/html") + end, "twice"},
		{"base64", partsType, field("a", "Yg==", "Content-Transfer-Encoding: base64") + end, "Content-Transfer-Encoding"},
		{"quoted-printable", partsType, field("a", "b", "Content-Transfer-Encoding: Quoted-Printable") + end, "Content-Transfer-Encoding"},
		{"gzip", partsType, field("a", "b", "Content-Encoding: gzip") + end, "Content-Encoding"},
		{"a length that is not its own", partsType, field("a", "b", "Content-Length: 2") + end, "Content-Length"},
		{"UTF-16", partsType, field("a", "b", "Content-Type: text/plain; charset=utf-16") + end, "charset"},
		{"UTF-7 for all fields", partsType, field("_charset_", "utf-7") + field("a", "b") + end, "another charset"},
		{"a type that is none", partsType, field("a", "b", "Content-Type: text/") + end, "cannot be read"},
		{"parts in a part", partsType, field("a", "b", "Content-Type: multipart/mixed; boundary=y") + end, "parts itself"},
		{"a value that is no text", partsType, field("a", "\xff") + end, "not text"},
		{"NUL in a value", partsType, field("a", "b\x00c") + end, "not text"},
		{"JSON with a name twice", partsType, field("a", `{"a":1,"A":2}`, "Content-Type: application/json") + end, "ignore case"},
		{"a part of a form without a disposition", partsType, crlf("--x\nContent-Type: text/plain\n\nb\n") + end, "without a name"},
		{"a part of a form without a head", partsType, "--x\r\n\r\nb\r\n" + end, "without a name"},
		{"a part of a form without a name", partsType, disposition("form-data"), "without a name"},
		{"a file without a name", partsType, disposition(`form-data; filename="a"`), "without a name"},
		{"an attachment in a form", partsType, disposition(`attachment; name="a"`), "another kind"},
		{"a name twice", partsType, disposition(`form-data; name="a"; name="b"`), "twice"},
		{"a name twice, in two cases", partsType, disposition(`form-data; name="a"; NAME="b"`), "twice"},
		{"a file name twice", partsType, disposition(`form-data; name="a"; filename="b"; filename="c"`), "twice"},
		{"a name that is encoded", partsType, disposition(`form-data; name*=utf-8''a`), "read in different ways"},
		{"a name that is continued", partsType, disposition(`form-data; name*0=_met; name*1=hod`), "read in different ways"},
		{"a file name that is encoded, alone", partsType, disposition(`form-data; name="a"; filename*=utf-8''b`), "filename*"},
		{"two file names", partsType, disposition(`form-data; name="a"; filename="b"; filename*=utf-8''c`), "filename*"},
		{"a file name in Latin-1", partsType, disposition(`form-data; name="a"; filename="b"; filename*=iso-8859-1''b`), "read in different ways"},
		{"an escaped quote", partsType, disposition(`form-data; name="a\"; filename=\"b"`), "read in different ways"},
		{"a backslash in a file name", partsType, disposition(`form-data; name="a"; filename="C:\b"`), "read in different ways"},
		{"single quotes, which PHP takes off", partsType, disposition(`form-data; name='_method'`), "read in different ways"},
		{"no quotes, and a space", partsType, disposition(`form-data; name=a b`), "read in different ways"},
		{"a quote in the middle", partsType, disposition(`form-data; name=a"b"`), "read in different ways"},
		{"no end of a quote", partsType, disposition(`form-data; name="a`), "read in different ways"},
		{"a comma between parameters", partsType, disposition(`form-data, name="a"`), "read in different ways"},
		{"a name within a file name, which Rack finds", partsType, disposition(`form-data; name="a"; filename="; name=_method"`), "take parameters from"},
		{"a name within a name", partsType, disposition(`form-data; name="x; name=_method"`), "take parameters from"},
		{"an encoded word, which Java's parsers decode", partsType, disposition(`form-data; name="=?utf-8?Q?=5Fmethod?="`), "decode"},
		{"a percent-encoded file name, which Rack decodes", partsType, disposition(`form-data; name="a"; filename="..%2fb"`), "decode"},
		{"a file name that climbs", partsType, disposition(`form-data; name="a"; filename="../b"`), "path to somewhere"},
		{"a parameter that is not known", partsType, disposition(`form-data; name="a"; size=1`), "parameter size"},
		{"a method", partsType, field("_method", "DELETE") + end, "request's method"},
		{"a method that Rack sees", partsType, field("a", "b") + field("]_method", "DELETE") + end, "request's method"},
		{"a method that PHP sees", partsType, field(" .method", "DELETE") + end, "white space|request's method"},
		{"a method in a file", partsType, disposition(`form-data; name="_METHOD"; filename="a"`), "request's method"},
		{"a method in mixed parts, which Rack reads too", mixedType, field("_method", "DELETE") + end, "request's method"},
		{"a method as the id of a part", mixedType, crlf("--x\nContent-ID: _method\n\nDELETE\n") + end, "request's method"},
		{"a method as the name of a file", mixedType, disposition(`attachment; filename="_method"`), "request's method"},
		{"a name that PHP changes", partsType, field(" role", "admin") + end, "white space"},
		{"a name with a bracket alone", partsType, field("role[", "admin") + end, "brackets"},
		{"a question mark that readers of queries drop", partsType, field("?role", "admin") + end, "question mark"},
		{"a file of bytes without a name, which Django and Go read as a value", partsType, crlf("--x\nContent-Disposition: form-data; name=\"a\"; filename=\"\"\nContent-Type: application/octet-stream\n\nb\x00\n") + end, "file without a name"},
		{"names that are one", partsType, field("user.name", "a") + field("user_name", "b") + end, "one name"},
		{"names equal but for case", partsType, field("role", "a") + field("Role", "b") + end, "one name"},
		{"a list and no list", partsType, field("a", "1") + field("a[]", "2") + end, "one name"},
		{"too many parts", partsType, strings.Repeat(field("a", ""), maxParts+1) + end, "more than 1000 parts"},
		{"JSON with a part in it", partsType, "{\"a\":\r\n1}\r\n--x\r\n\r\n" + end, "begin with its boundary"},
		{"a form under its name", partsType, "a=1", "begin with its boundary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := read(Options{MaxBody: 1 << 20}, post(c.contentType), c.body)
			say, or, _ := strings.Cut(c.say, "|")
			if err != nil && or != "" && strings.Contains(err.Error(), or) {
				say = or
			}
			wantRefused(t, err, gate.Unreadable, say)
		})
	}
	opt := limits
	opt.MaxValues = 2
	_, _, err := read(opt, post(partsType), strings.Repeat(field("a", ""), 3)+end)
	wantRefused(t, err, gate.TooLarge, "limits.values")
}

// Django, Rack and Go make "b.php" of these, or Windows does. Names that people give to files pass.
func TestFileNamesThatServersChange(t *testing.T) {
	name := func(name string) error {
		_, _, err := read(limits, post(partsType), crlf("--x\nContent-Disposition: form-data; name=\"f\"; filename=\""+name+"\"\n\nx\n")+end)
		return err
	}
	for _, n := range []string{
		"b.ph&#112;", "b.ph&#x70", "b.php&nbsp;", "b&period;php", "a&sol;b.php", "b.ph\u200bp", "b.php\u00ad", "b.php\ufeff", "b.ph\u00a0p", "b.ph\u202fp",
		"b.php ", " b.php", "b.php.", "b.php%20", "%20b.php", "b.php/", "b.php//", "b.php/.", "a//b.php", ".", "\u202ephp.b",
	} {
		wantRefused(t, name(n), gate.Unreadable, "Content-Disposition")
	}
	for _, n := range []string{
		"a%22b%22.txt", "my%20report.pdf", "100%.txt", "R&D.pdf", "Q&A; part 2.pdf", "a/b/c.txt", "/tmp/c.txt", ".gitignore", "Makefile", "Screenshot at 3.00.00\u202fPM.png", "r\u00e9sum\u00e9 (final) v1.2.pdf",
		"\u8cc7\u6599.csv", "\U0001f600.png", "a..b.txt", "it's.txt", "a,b=c.txt", "name.with.dots.tar.gz", "",
	} {
		if err := name(n); err != nil {
			t.Errorf("%q: %v", n, err)
		}
	}
}

// Go's writer is read as it wrote.
func TestMultipartOfGo(t *testing.T) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for name, value := range map[string]string{"a": "1", "user[name]": "é", "empty": ""} {
		if err := w.WriteField(name, value); err != nil {
			t.Fatal(err)
		}
	}
	f, err := w.CreateFormFile("file", "report 2026 (final).pdf")
	if err == nil {
		_, err = f.Write([]byte("%PDF\x00"))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := read(limits, post("content-type: "+w.FormDataContentType()), body.String())
	if err != nil || len(r.Multipart) != 4 || !r.HasField("user[name]") || r.HasField("access_token") {
		t.Errorf("%v, %v", r, err)
	}
}

// FuzzMultipart holds our reading of a form to that of Go's mime/multipart, which accepts more than we do.
func FuzzMultipart(f *testing.F) {
	f.Add(field("a", "b") + field("c", "d", "Content-Type: text/plain") + end)
	f.Add(crlf("--x\nContent-Disposition: form-data; name=\"f\"; filename=\"a b.txt\"\n\nx\n--\n") + end)
	f.Add(field("a", "b\n\n--y") + "--x--")
	f.Add(crlf("--x\nContent-Disposition: form-data; name=f; filename=c.txt; filename*=utf-8''c.txt\nContent-Length: 1\n\nb\n") + end)
	f.Add("--x--")
	f.Fuzz(func(t *testing.T, body string) {
		r, _, err := read(limits, post(partsType), body)
		if err != nil || r.Multipart == nil {
			return
		}
		theirs := multipart.NewReader(strings.NewReader(body), "x")
		for n, p := range r.Multipart {
			part, err := theirs.NextRawPart()
			if err != nil {
				t.Fatalf("part %d: %v", n, err)
			}
			ours := p.(gate.Object)
			data, err := io.ReadAll(part)
			if err != nil {
				t.Fatal(err)
			}
			kind, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
			if err != nil || kind != "form-data" {
				t.Fatalf("part %d: %q, %v", n, kind, err)
			}
			name, _ := ours.Get("name")
			filename, isFile := ours.Get("filename")
			theirFile, theirsIsFile := params["filename"]
			value, hasValue := ours.Get("value")
			size, _ := ours.Get("bytes")
			if name != params["name"] || isFile != theirsIsFile || isFile && filename != theirFile || size != len(data) || hasValue && value != string(data) || !isFile && !hasValue && part.Header.Get("Content-Type") == "" {
				t.Fatalf("part %d is %v here, and %v with %q to Go", n, ours, params, data)
			}
			headers, _ := ours.Get("headers")
			var names []string
			for _, m := range headers.(gate.Object) {
				names = append(names, textproto.CanonicalMIMEHeaderKey(m.Name))
			}
			slices.Sort(names)
			if diff := cmp.Diff(slices.Sorted(maps.Keys(part.Header)), names); diff != "" {
				t.Fatal(diff)
			}
		}
		if _, err := theirs.NextRawPart(); !errors.Is(err, io.EOF) && len(r.Multipart) > 0 {
			t.Fatalf("Go reads on: %v", err)
		}
	})
}
