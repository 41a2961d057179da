package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The most bytes that a text takes in a record. Others choose these texts, so without a bound they choose how fast the journal
// grows and how much memory its copies take.
const (
	MaxRecorded = 2 << 10 // from somebody known: an agent, an approver, a policy
	MaxClaimed  = 256     // from a stranger, or where only a stranger would be long
)

// Recorded returns s fit for a record: valid UTF-8 that takes at most limit bytes there, escapes included. Of a longer text it
// keeps the beginning, the length and the SHA-256, so that whoever has the text can recognise it. Mask a secret before: a hash of
// it can be guessed.
func Recorded(s string, limit int) string {
	if len(s) <= limit/longestEscape && utf8.ValidString(s) {
		return s
	}
	whole := strings.ToValidUTF8(s, "\uFFFD")
	if recordedPrefix(whole, limit) == len(whole) {
		return whole
	}
	sum := sha256.Sum256([]byte(s))
	end := fmt.Sprintf("... (%d bytes, sha256 %s)", len(s), hex.EncodeToString(sum[:]))
	return whole[:recordedPrefix(whole, limit-len(end))] + end
}

const longestEscape = len(`\u0000`)

// recordedPrefix returns how many bytes of s fit into limit bytes of a record.
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
