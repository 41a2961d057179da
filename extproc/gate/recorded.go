package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// How many bytes a text takes in a record at most. Others choose what is recorded of them, so without a bound they choose
// how fast the journal grows, and how much memory has what is kept of records.
const (
	MaxRecorded = 2 << 10 // of one whom we know: an agent, an approver, a policy
	MaxClaimed  = 256     // of a stranger, or of a part that only a stranger would make long
)

// Recorded is s as a record has it: valid UTF-8 that takes at most limit bytes there, escapes included. A longer text is its
// beginning, its length and its SHA-256: enough to tell it from others, and to know it again for whoever has it. So a value
// that is not to be recorded is masked before.
func Recorded(s string, limit int) string {
	if len(s) <= limit/longestEscape && utf8.ValidString(s) {
		return s
	}
	whole := strings.ToValidUTF8(s, "\uFFFD")
	if recordedPrefix(whole, limit) == len(whole) {
		return whole
	}
	sum := sha256.Sum256([]byte(s))
	end := fmt.Sprintf("… (%d bytes, sha256 %s)", len(s), hex.EncodeToString(sum[:]))
	return whole[:recordedPrefix(whole, limit-len(end))] + end
}

const longestEscape = len(`\u0000`)

// recordedPrefix is how much of s fits into limit bytes of a record.
func recordedPrefix(s string, limit int) int {
	taken := 0
	for i, r := range s {
		n := utf8.RuneLen(r)
		switch {
		case r == '"' || r == '\\':
			n = 2
		case r < ' ':
			n = longestEscape
		}
		if taken += n; taken > limit {
			return i
		}
	}
	return len(s)
}
