package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestRecorded(t *testing.T) {
	for _, s := range []string{
		"", "/v1/payments", strings.Repeat("x", 256), strings.Repeat("x", 257), strings.Repeat("x", 60_000),
		strings.Repeat("\x00", 42), strings.Repeat("\x00", 43), strings.Repeat("\xff", 100), strings.Repeat(`"`, 200), strings.Repeat("€", 90),
		strings.Repeat("😀", 1000), strings.Repeat("x", 255) + "\xe2\x82", strings.Repeat("\u2028\x7f", 100),
	} {
		got := Recorded(s, MaxClaimed)
		written := len(AppendText(nil, got)) - len(`""`)
		if written > MaxClaimed || !utf8.ValidString(got) {
			t.Errorf("%.20q (%d bytes) takes %d bytes in a record: %q", s, len(s), written, got)
		}
		if again := Recorded(got, MaxClaimed); again != got {
			t.Errorf("%.20q (%d bytes) is %q, and that is %q", s, len(s), got, again)
		}
		valid := strings.ToValidUTF8(s, "\uFFFD")
		if whole := len(AppendText(nil, valid)) - len(`""`); whole <= MaxClaimed/2 && got != valid {
			t.Errorf("%.20q is short and was made %q", s, got)
		}
		sum := sha256.Sum256([]byte(s))
		if got != valid && (!strings.HasSuffix(got, hex.EncodeToString(sum[:])+")") || !strings.HasPrefix(valid, got[:strings.Index(got, "... (")])) {
			t.Errorf("%.20q (%d bytes) is %q, without its beginning or its digest", s, len(s), got)
		}
	}
}
