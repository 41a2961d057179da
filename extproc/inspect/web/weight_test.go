package web

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

// What is kept of a body until it is judged is no more than it is counted with, whatever is in it and however it comes.
func TestWeight(t *testing.T) {
	const size = 4 << 20
	for _, c := range []struct{ name, contentType, body string }{
		{"a text", "application/json", `"` + strings.Repeat("x", size) + `"`},
		{"many values", "application/json", "[" + strings.Repeat("0,", 90_000) + `"` + strings.Repeat("x", size) + `"]`},
		{"many names", "application/json", "{" + strings.Join(numbered(40_000), ",") + "}"},
		{"texts in escapes", "application/json", `["` + strings.Repeat(`\u0001`, size/6) + `"]`},
		{"a form", "application/x-www-form-urlencoded", "a=" + strings.Repeat("x", size)},
		{"a form of many fields", "application/x-www-form-urlencoded", strings.Repeat("a=1&", 900) + "b=2"},
		{"bytes", "application/octet-stream", strings.Repeat("x", size)},
	} {
		for _, announced := range []bool{true, false} {
			before := heap()
			i := New(Options{MaxBody: 2 * size})
			fields := []Field{{":method", "POST"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/"}, {"content-type", c.contentType}}
			if announced {
				fields = append(fields, Field{"content-length", fmt.Sprint(len(c.body))})
			}
			if err := i.Head(fields); err != nil {
				t.Fatal(err)
			}
			for piece := []byte(c.body); len(piece) > 0; {
				n := min(len(piece), 16<<10)
				if err := i.Write(piece[:n]); err != nil {
					t.Fatal(err)
				}
				piece = piece[n:]
			}
			if held := heap() - before; held > unjudged(int64(len(c.body)))+64<<10 {
				t.Errorf("%s, length announced %v: of %d bytes %d are kept while they come", c.name, announced, len(c.body), held)
			}
			r, err := i.Request()
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			op := &gate.Operation{Principal: &gate.Principal{Issuer: "i", Subject: "s"}, Resource: gate.Resource{Name: "r", Kind: "http"}, Detail: r}
			if _, err := op.Input(); err != nil {
				t.Fatal(err)
			}
			if kept, weight := heap()-before, i.Weight(); kept > weight {
				t.Errorf("%s, length announced %v: %d bytes are kept of %d, which weigh %d", c.name, announced, kept, len(c.body), weight)
			}
			i.Forget()
			op.Detail = nil
			runtime.KeepAlive(i)
			runtime.KeepAlive(op)
			if kept := heap() - before; kept > 64<<10 || i.Seen().BodyBytes != int64(len(c.body)) || i.Seen().Method != "POST" {
				t.Errorf("%s: %d bytes are kept of what was sent on, and %+v", c.name, kept, i.Seen())
			}
		}
	}
	i := New(Options{MaxValues: 10})
	i.body = []byte(strings.Repeat("[", 1000))
	if got, want := i.Weight(), int64(1000*perByteJudged+10*perValue); got != want {
		t.Errorf("more values than are accepted weigh %d, want %d", got, want)
	}
}

func numbered(n int) (members []string) {
	for i := range n {
		members = append(members, fmt.Sprintf(`"name-%d":%d`, i, i))
	}
	return members
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
