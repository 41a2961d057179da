package web

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/gate"
)

// compressed returns text in a coding.
func compressed(t testing.TB, coding, text string) string {
	t.Helper()
	b, err := extproctest.Encode(coding, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func hexSum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// What is judged is what a compressed body stands for, what goes on is what came, and the input has the digest of both.
func TestCompressedBodiesAreRead(t *testing.T) {
	for _, c := range []struct{ coding, contentType, body, member, want string }{
		{"gzip", "application/json", `{"amount": 1000}`, "body", `{"amount":1000}`},
		{"deflate", "application/json", `{"amount": 1000}`, "body", `{"amount":1000}`},
		{"raw", "application/json", `{"amount": 1000}`, "body", `{"amount":1000}`},
		{"br", "application/json", `{"amount": 1000}`, "body", `{"amount":1000}`},
		{"zstd", "application/json", `{"amount": 1000}`, "body", `{"amount":1000}`},
		{"gzip", "application/octet-stream", `{"amount": 1000}`, "body", `{"amount":1000}`},
		{"gzip", "application/x-www-form-urlencoded", "amount=1000&note=" + strings.Repeat("a+", 99), "form", `{"amount":["1000"],"note":["a a `},
		{"gzip", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n" + strings.Repeat("a ", 200) + "\r\n--x--\r\n", "multipart", `[{"bytes":400,`},
		{"gzip", "application/x-ndjson", strings.Repeat("{\"amount\": 1}\n", 20), "bodies", `[{"amount":1},`},
		{"gzip", "application/x-git-upload-pack-request", strings.Repeat("0032want 0123456789012345678901234567890123456789\n", 40) + "00000009done\n", "body_decoded_bytes", "2013"},
	} {
		sent := compressed(t, c.coding, c.body)
		r, i, err := read(limits, post("content-type: "+c.contentType, "content-encoding: "+strings.ReplaceAll(c.coding, "raw", "deflate")), sent)
		if err != nil {
			t.Errorf("%s, %s: %v", c.coding, c.contentType, err)
			continue
		}
		o := r.Object()
		got, _ := o.Get(c.member)
		text, err := gate.AppendJSON(nil, got)
		if err != nil || !strings.HasPrefix(string(text), c.want) {
			t.Errorf("%s, %s: %s is %s, %v", c.coding, c.contentType, c.member, text, err)
		}
		for name, want := range map[string]any{
			"body_bytes": int64(len(sent)), "body_sha256": hexSum(sent),
			"body_decoded_bytes": int64(len(c.body)), "body_decoded_sha256": hexSum(c.body),
		} {
			if got, _ := o.Get(name); got != want {
				t.Errorf("%s: %s is %v, want %v", c.coding, name, got, want)
			}
		}
		if string(i.Body()) != sent {
			t.Errorf("%s: what goes on is not what came", c.coding)
		}
	}
}

func TestCompressedBodiesThatAreRefused(t *testing.T) {
	const body = `{"amount": 1000}`
	gz := compressed(t, "gzip", body)
	// A name of a file in gzip, and the text of a block that is not compressed, stand in what is sent as they are.
	named := func(name string) string { return gz[:3] + "\x08" + gz[4:10] + name + "\x00" + gz[10:] }
	plainly := func(text string) string {
		return "\x01" + string([]byte{byte(len(text)), byte(len(text) >> 8), ^byte(len(text)), ^byte(len(text) >> 8)}) + text
	}
	for _, c := range []struct {
		name, coding, contentType, body string
		problem                         gate.Problem
		say                             string
	}{
		{"in capitals", "GZIP", "application/json", gz, gate.Unreadable, "Content-Encoding: GZIP"},
		{"under an old name", "x-gzip", "application/json", gz, gate.Unreadable, "x-gzip"},
		{"a list", "gzip, identity", "application/json", gz, gate.Unreadable, "gzip, identity"},
		{"two", "gzip, gzip", "application/json", compressed(t, "gzip,gzip", body), gate.Unreadable, "one and in lower case"},
		{"not known", "compress", "application/json", gz, gate.Unreadable, "compress"},
		{"not what it says", "gzip", "application/json", body, gate.Unreadable, "cannot be read as the gzip"},
		{"cut off", "gzip", "application/json", gz[:len(gz)-1], gate.Unreadable, "ends in the middle of its gzip"},
		{"with more after it", "gzip", "application/json", gz + "x", gate.Unreadable, "goes on after the end of its gzip"},
		{"twice", "gzip", "application/json", gz + gz, gate.Unreadable, "goes on after the end of its gzip"},
		{"twice, in zstd", "zstd", "application/json", compressed(t, "zstd", body) + compressed(t, "zstd", " "), gate.Unreadable, "servers read in different ways"},
		{"a bomb", "gzip", "application/json", compressed(t, "gzip", strings.Repeat(" ", 4<<20)), gate.TooLarge, "larger than the 65536 bytes"},
		{"JSON that it is not", "gzip", "application/json", compressed(t, "gzip", body+"{}"), gate.Unreadable, "JSON"},
		{"a parameter in what is sent", "gzip", "application/x-www-form-urlencoded", named("&admin=1&"), gate.Unreadable, "a parameter of a form"},
		{"a parameter in what is sent without a type", "gzip", "", named("&admin=1&"), gate.Unreadable, "a parameter of a form"},
		{"a line of JSON in what is sent", "gzip", "application/x-ndjson", named("\n{\"amount\":1}\n"), gate.Unreadable, "a line of JSON"},
		{"JSON in what is sent", "br", "application/json", "{\x0a\x80[1]\x03", gate.Unreadable, ""},
		{"a part in what is sent", "deflate", "multipart/form-data; boundary=x", plainly("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n"), gate.Unreadable, "its boundary"},
	} {
		more := []string{"content-encoding: " + c.coding}
		if c.contentType != "" {
			more = append(more, "content-type: "+c.contentType)
		}
		_, _, err := read(limits, post(more...), c.body)
		refused, ok := errors.AsType[*Error](err)
		if !ok || refused.Problem != c.problem || !strings.Contains(refused.Detail, c.say) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	big := Options{MaxBody: 32 << 20}
	if _, _, err := read(big, post("content-encoding: zstd"), compressed(t, "zstd", strings.Repeat(" ", 4<<20))); err == nil || !strings.Contains(err.Error(), "expands to more than 200 times its size") {
		t.Errorf("a bomb that would fit: %v", err)
	}
}

// The bound on what is made of a body is known before it is made, and what was made weighs like any body.
func TestWeightOfCompressedBodies(t *testing.T) {
	body := "[" + strings.Repeat("0,", 20_000) + "0]"
	i := New(Options{MaxBody: 1 << 20})
	if err := i.Head(post("content-type: application/json", "content-encoding: gzip")); err != nil {
		t.Fatal(err)
	}
	sent := compressed(t, "gzip", body)
	if err := i.Write([]byte(sent)); err != nil {
		t.Fatal(err)
	}
	if most := i.Decoding(); most < unjudged(1<<20) {
		t.Errorf("before it is decoded it counts as %d", most)
	}
	if err := i.Decode(); err != nil || i.Decoding() != 0 {
		t.Fatalf("%v, and %d to do", err, i.Decoding())
	}
	weight := i.Weight()
	if least := int64(perByteJudged*len(body) + perValue*20_000); weight < least {
		t.Errorf("it weighs %d, and what it stands for %d", weight, least)
	}
	if _, err := i.Request(); err != nil || i.Weight() != weight || i.Holds(0) < int64(len(sent)+len(body)) {
		t.Errorf("%v; after it was read it weighs %d, and holds %d", err, i.Weight(), i.Holds(0))
	}
	if i.Forget(); i.Body() != nil {
		t.Error("it is kept when it was sent on")
	}
}

// Any way of cutting a compressed body gives the same, and what is accepted goes on as it came.
func FuzzCompressedBody(f *testing.F) {
	for _, coding := range []string{"gzip", "deflate", "br", "zstd"} {
		f.Add(coding, "application/json", []byte(compressed(f, coding, `{"a":1}`)), 3)
		f.Add(coding, "application/x-www-form-urlencoded", []byte(compressed(f, coding, `a=1`)), 1)
		f.Add(coding, "", []byte(compressed(f, coding, strings.Repeat("x", 70_000))), 9)
	}
	f.Fuzz(func(t *testing.T, coding, contentType string, body []byte, n int) {
		fields := post("content-encoding: "+coding, "content-type: "+contentType)
		whole, i, err := read(limits, fields, string(body))
		other := New(limits)
		splitErr := other.Head(fields)
		for rest := body; splitErr == nil && len(rest) > 0; {
			k := min(1+n&0xFF, len(rest))
			splitErr = other.Write(rest[:k])
			rest = rest[k:]
		}
		var split *Request
		if splitErr == nil {
			split, splitErr = other.Request()
		}
		if fmt.Sprint(err) != fmt.Sprint(splitErr) {
			t.Fatalf("at once %v, in pieces %v", err, splitErr)
		}
		if err != nil {
			return
		}
		if fmt.Sprint(whole.Object()) != fmt.Sprint(split.Object()) || string(i.Body()) != string(body) || whole.DecodedBytes > limits.MaxBody {
			t.Fatalf("at once %v, in pieces %v", whole.Object(), split.Object())
		}
	})
}
