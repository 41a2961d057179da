package cookie

import (
	"encoding/base64"
	"strings"
	"testing"
)

func box(scope ...string) Box {
	return Box{secret: []byte("0123456789abcdef0123456789abcdef"), scope: scope}
}

// A sealed cookie opens for what it was sealed for and says nothing of its value, not even about how long it is.
func TestCookieBox(t *testing.T) {
	mine := box("payments", "https://idp", "agent-1")
	for _, value := range []string{"", "x", strings.Repeat("s", 62), "\x80", "a\x00", strings.Repeat("long", 1000)} {
		sealed, err := mine.seal("sid", value)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := mine.seal("sid", value); again == sealed || len(value) > 2 && strings.Contains(sealed, value) {
			t.Errorf("%.20q is sealed as %.40q", value, sealed)
		}
		if got, ok := mine.open("sid", sealed); !ok || got != value {
			t.Errorf("%.20q opens as %.20q, %t", value, got, ok)
		}
		for name, b := range map[string]Box{
			"another resource": box("refunds", "https://idp", "agent-1"), "another issuer": box("payments", "https://idp2", "agent-1"),
			"another agent": box("payments", "https://idp", "agent-2"), "parts cut elsewhere": box("payments", "https://idpagent", "-1"),
			"another secret": {[]byte("fedcba9876543210fedcba9876543210"), mine.scope}, "no secret": {nil, mine.scope},
		} {
			if _, ok := b.open("sid", sealed); ok {
				t.Errorf("%s: it opens", name)
			}
		}
		if _, ok := mine.open("sid2", sealed); ok {
			t.Error("it opens under another name")
		}
		raw, _ := base64.RawURLEncoding.DecodeString(sealed[len(prefix):])
		for i := range raw {
			raw[i] ^= 1
			if _, ok := mine.open("sid", prefix+base64.RawURLEncoding.EncodeToString(raw)); ok {
				t.Fatalf("it opens with byte %d changed", i)
			}
			raw[i] ^= 1
		}
		for i := range sealed {
			if _, ok := mine.open("sid", sealed[:i]); ok {
				t.Fatalf("%d bytes of it open", i)
			}
		}
	}
	one, _ := mine.seal("sid", "1")
	other, _ := mine.seal("sid", "12345678901")
	if len(one) != len(other) {
		t.Errorf("1 byte is sealed as %d, 11 as %d", len(one), len(other))
	}
	if sealed, err := (Box{}).seal("sid", "1"); err == nil {
		t.Errorf("without a secret it is %q", sealed)
	}
}

func TestReadSetCookie(t *testing.T) {
	for _, c := range []struct {
		field, name, value string
		ok                 bool
	}{
		{"sid=1; Path=/", "sid", "1", true},
		{" sid = a=b ;Path=/", "sid", "a=b", true},
		{"sid=", "sid", "", true},
		{"=1", "", "1", false},
		{"sid", "sid", "", false},
		{"", "", "", false},
		{"a b=1", "a b", "1", false},
	} {
		if name, value, _, ok := readSetCookie(c.field); name != c.name || value != c.value || ok != c.ok {
			t.Errorf("%q is %q=%q, %t", c.field, name, value, ok)
		}
	}
}
