package session_test

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// piped is a statement as a pipeline has it.
func piped(text string) []byte {
	return append(append(message('P', "\x00"+text+"\x00\x00\x00"), message('B', "\x00\x00\x00\x00\x00\x00\x00\x00")...), message('E', "\x00\x00\x00\x00\x00")...)
}

// longPipelines: the server keeps the rest of a row until a Sync or a Flush, so the part of a row that is there must not keep the session
// from reading on to the agent's Sync, from asking people and from what else is done meanwhile.
func longPipelines(t *testing.T, w *world) {
	const n = 600 // statements: blocks of the server's break some rows off
	c := w.start(t, options{}).raw()
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	c.send(bytes.Repeat(piped("SELECT 'some text'"), n), message('S', ""))
	if got := c.until('Z'); got != strings.Repeat("12DC", n)+"Z(I)" {
		t.Fatalf("a long pipeline has %d answers, and ends in %s", len(got), got[max(0, len(got)-20):])
	}
	for name, text := range map[string]string{
		"a row that is larger than what is read at once": "SELECT repeat('x', 100001)",
		"many rows": "SELECT repeat('x', 1001) FROM generate_series(1, 50)",
		"COPY data": "COPY (SELECT repeat('x', 100001)) TO STDOUT",
	} {
		t.Run(name, func(t *testing.T) {
			r := w.start(t, options{people: true, policy: rules + "\nask contains {\"id\": \"asked\", \"approvers\": [\"payments-oncall\"]} if contains(input.postgres.text, \"asked\")\n"})
			c := r.raw()
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
			c.send(piped(text), piped("SELECT 'asked'"), message('S', ""))
			r.approve()
			got := c.until('Z')
			if strings.Count(got, "N") != 1 || !strings.HasSuffix(strings.Replace(got, "N", "", 1), "C12DCZ(I)") {
				t.Errorf("and a statement behind it that waits for people: %s", got)
			}
		})
	}
}
