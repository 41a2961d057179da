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
	// So many that some of it is with the server before there is a Sync, in rows of which blocks of the server's break most off.
	const n = 400
	many := bytes.Repeat(piped("SELECT repeat('x', 1001)"), n)
	t.Run("to the end", func(t *testing.T) {
		c := w.start(t, options{}).raw()
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		c.send(many, message('S', ""))
		if got := c.until('Z'); got != strings.Repeat("12DC", n)+"Z(I)" {
			t.Errorf("it has %d answers, and ends in %s", len(got), got[max(0, len(got)-20):])
		}
	})
	t.Run("and a statement behind it that waits for people", func(t *testing.T) {
		r := w.start(t, options{people: true, policy: rules + "\nask contains {\"id\": \"asked\", \"approvers\": [\"payments-oncall\"]} if contains(input.postgres.text, \"asked\")\n"})
		c := r.raw()
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		c.send(many, piped("SELECT 'asked'"), message('S', ""))
		told := make(chan string)
		go func() { told <- c.until('Z') }()
		r.approve()
		got := <-told
		if strings.Count(got, "N") != 1 || strings.Replace(got, "N", "", 1) != strings.Repeat("12DC", n+1)+"Z(I)" {
			t.Errorf("it has %d answers, and ends in %s", len(got), got[max(0, len(got)-20):])
		}
	})
}
