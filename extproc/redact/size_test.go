package redact

import (
	"fmt"
	"strings"
	"testing"
)

// How much a stream is said to hold decides whether an answer still fits into the memory, which an agent can fill: so what is taken
// by a path does not count, however long, deep and wide it is.
func TestSizeTellsNothingOfAProtectedValue(t *testing.T) {
	values := []string{
		`1`, `"` + strings.Repeat("x", 900_000) + `"`, strings.Repeat("7", 5000), strings.Repeat("[", 900) + "1" + strings.Repeat("]", 900),
		`[` + strings.Repeat(`"x",`, 1<<15) + `1]`, `{` + strings.TrimPrefix(numbered(60_000), ",") + `}`,
	}
	var words strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&words, `"word-%d",`, i)
	}
	values = append(values, `[`+words.String()+`1]`)
	for _, with := range []string{"mask", "remove", "null", "token"} {
		for media, body := range map[string]string{
			"application/json":     `{"a":[{"b":"` + strings.Repeat("x", 5000) + `"}],"ssn":%s,"c":{"d":[1,2,3]}}`,
			"application/x-ndjson": "{\"ssn\":%s}\n{\"ssn\":1}\n",
			"text/event-stream":    "data: {\"a\":1,\"ssn\":%s}\n\ndata: {}\n\n",
		} {
			var most []int
			for _, v := range values {
				s, err := plan(t, "$..ssn "+with).Stream(media, Options{})
				if err != nil {
					t.Fatal(err)
				}
				top := 0
				for text := fmt.Sprintf(body, v); text != ""; {
					n := min(len(text), 4<<10)
					if _, err := s.Write([]byte(text[:n])); err != nil {
						t.Fatal(err)
					}
					top, text = max(top, s.Size()), text[n:]
				}
				if _, err := s.Close(); err != nil {
					t.Fatal(err)
				}
				most = append(most, max(top, s.Size()))
			}
			for i := range most {
				if d := most[i] - most[0]; d > 16<<10 || d < -16<<10 {
					t.Errorf("%s %s: the streams hold up to %v bytes", with, media, most)
					break
				}
			}
		}
	}
}
