package redact

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

// accounts is a JSON array of about n bytes, of the kind that APIs answer with.
func accounts(n int) []byte {
	var b strings.Builder
	b.WriteString("[")
	for i := 0; b.Len() < n-200; i++ {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, `{"id":%d,"name":"Jo Example %d","ssn":"219-09-%04d","active":true,"balance":%d.25,"tags":["a","be","see"],`+
			`"address":{"street":"Main Street %d","city":"Springfield","phone":"+1 555 0100"},"note":null}`, i, i, i%10000, i*17, i)
	}
	b.WriteString("]")
	return []byte(b.String())
}

func benchmark(b *testing.B, contentType string, body []byte, lines ...string) {
	p := plan(b, lines...)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		s, err := p.Stream(contentType, Options{})
		if err != nil {
			b.Fatal(err)
		}
		for rest := body; len(rest) > 0; { // Envoy hands over about 16 KiB at a time
			n := min(len(rest), 16<<10)
			if _, err := s.Write(rest[:n]); err != nil {
				b.Fatal(err)
			}
			rest = rest[n:]
		}
		if _, err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

var twoPaths = []string{"$..ssn", "$[*].address.phone remove"}

func BenchmarkTwoPaths1KB(b *testing.B)  { benchmark(b, jsonType, accounts(1<<10), twoPaths...) }
func BenchmarkTwoPaths10KB(b *testing.B) { benchmark(b, jsonType, accounts(10<<10), twoPaths...) }
func BenchmarkTwoPaths1MB(b *testing.B)  { benchmark(b, jsonType, accounts(1<<20), twoPaths...) }

// BenchmarkJSONText is what to compare with: the same body through a jsontext decoder and encoder, token by token, with
// nothing redacted.
func BenchmarkJSONText(b *testing.B) {
	body := accounts(1 << 20)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		d, e := jsontext.NewDecoder(bytes.NewReader(body)), jsontext.NewEncoder(io.Discard)
		for {
			token, err := d.ReadToken()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			if err := e.WriteToken(token); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkDetectors(b *testing.B) {
	b.Run("json", func(b *testing.B) { benchmark(b, jsonType, accounts(1<<20), detectors()...) })
	b.Run("json-email", func(b *testing.B) { benchmark(b, jsonType, accounts(1<<20), "email") })
	prose := []byte(strings.Repeat("A line of a log that says nothing in particular, took 12 ms at 10.0.0.1, id 7f3e-22.\n", 12_000))
	b.Run("text", func(b *testing.B) { benchmark(b, "text/plain", prose, detectors()...) })
	b.Run("path", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			MaskText("/v1/payments/12345/refunds?status=open")
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		plan(b, twoPaths...)
	}
}
