package extproc

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/inspect/coding"
	"github.com/countersign/countersign/extproc/inspect/echo"
)

// TestCredentialWithinACoding: the target's credential does not pass in a coding either, however the answer is cut, nor the larger
// part of it. What has none passes as it came.
func TestCredentialWithinACoding(t *testing.T) {
	const secret = "target-credential-0123456789"
	filler := make([]byte, 20_000)
	for i := range filler {
		filler[i] = byte('a' + rand.IntN(26))
	}
	for _, c := range []struct {
		name, codings string
		text          string
		found         bool
	}{
		{"gzip", "gzip", "Authorization: Bearer " + secret + "\n", true},
		{"br", "br", "Authorization: Bearer " + secret + "\n", true},
		{"zstd", "zstd", "Authorization: Bearer " + secret + "\n", true},
		{"two", "gzip, br", "Authorization: Bearer " + secret + "\n", true},
		{"none of it", "gzip", "Authorization: Bearer target-credentia\n", false},
	} {
		parsed, err := coding.Parse([]string{c.codings})
		if err != nil {
			t.Fatal(err)
		}
		plain := append(bytes.Clone(filler), c.text...)
		body, err := extproctest.Encode(c.codings, append(plain, filler...))
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 7, 1000, len(body)} {
			w := &within{decoder: coding.NewDecoder(parsed), echo: echo.New(new(echo.Cache).Forms("Bearer "+secret, nil))}
			var passed []byte
			var found bool
			for from := 0; from < len(body) && !found; from += size {
				var out []byte
				end := min(from+size, len(body))
				out, found = w.write(body[from:end], end == len(body))
				passed = append(passed, out...)
			}
			w.close()
			if found != c.found {
				t.Errorf("%s in pieces of %d: found is %t", c.name, size, found)
			}
			if !found && !bytes.Equal(passed, body) {
				t.Errorf("%s in pieces of %d: what passes is not what came", c.name, size)
			}
			if found && bytes.Contains(decoded(t, parsed, passed), []byte(secret[:len(secret)*3/4])) {
				t.Errorf("%s in pieces of %d: the agent has most of it", c.name, size)
			}
		}
	}
}

func decoded(t *testing.T, codings []coding.Coding, body []byte) (out []byte) {
	t.Helper()
	d := coding.NewDecoder(codings)
	defer d.Close()
	for piece, err := range d.Decode(body, false) {
		if err != nil {
			break
		}
		out = append(out, piece...)
	}
	return out
}
