package extproc

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// pass gives text to e in pieces of the given lengths, and the rest as one.
func pass(e *echo, text []byte, cuts ...int) (out []byte, found bool) {
	for _, n := range append(cuts, len(text)) {
		n = min(n, len(text))
		got, err := e.write(text[:n], n == len(text))
		if err != nil {
			return out, true
		}
		out = append(out, got...)
		if text = text[n:]; len(text) == 0 {
			break
		}
	}
	return out, false
}

func TestEcho(t *testing.T) {
	const secret = "abcabcabd-secret"
	for _, c := range []struct {
		name, value, body string
		found             bool
	}{
		{"the token behind its scheme", "Bearer " + secret, "you sent " + secret + ", thank you", true},
		{"the token with its scheme", "Bearer " + secret, "Authorization: Bearer " + secret, true},
		{"a value without a scheme", secret, secret, true},
		{"a beginning that begins anew", secret, "abc" + secret, true},
		{"nearly", secret, secret[:len(secret)-1] + "X", false},
		{"all but the end", secret, secret[:len(secret)-1], false},
		{"what is too short to be looked for", "Bearer abc", "abc", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for cut := range len(c.body) + 1 {
				for next := range len(c.body) - cut + 1 {
					out, found := pass(newEcho(c.value), []byte(c.body), cut, next)
					if found != c.found || !found && string(out) != c.body {
						t.Fatalf("cut at %d and %d: passed %q, found %t", cut, next, out, found)
					}
					if e := newEcho(c.value); found && bytes.Contains(out, e.secret[:leastHeld]) && !strings.Contains(c.name, "anew") {
						t.Fatalf("cut at %d and %d: passed %q before it was found", cut, next, out)
					}
				}
			}
		})
	}
}

// FuzzEcho: whatever the secret and wherever the body is cut, what passes is the body, and nothing with the secret passes.
func FuzzEcho(f *testing.F) {
	f.Add("abababab", []byte("xababababx"), uint64(1))
	f.Add("aaaaaaaa", []byte("aaaaaaa baaaaaaa"), uint64(2))
	f.Fuzz(func(t *testing.T, secret string, body []byte, seed uint64) {
		e := newEcho(secret)
		if e == nil {
			return
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var cuts []int
		for range 20 {
			cuts = append(cuts, random.IntN(12))
		}
		out, found := pass(e, body, cuts...)
		if want := bytes.Contains(body, e.secret); found != want {
			t.Fatalf("found %t, and the body has it: %t", found, want)
		}
		if !found && !bytes.Equal(out, body) || bytes.Contains(out, e.secret) {
			t.Fatalf("passed %q of %q", out, body)
		}
	})
}
