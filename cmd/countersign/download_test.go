package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
)

// download takes size bytes twice: as fast as they come, and by a client that stops reading until everything between it
// and the target is full. It returns the most memory that the gateway had meanwhile.
func download(t testing.TB, g *watched, size int64) (most int64) {
	t.Helper()
	for _, c := range []struct{ name, more string }{{"sized", ""}, {"chunked", "&chunked=1"}} {
		before := len(outcomes(t, g.Gateway, 0))
		w := dial(t, g.Gateway)
		if err := w.SetDeadline(time.Now().Add(10 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		w.send(t, "%s\r\n", head(t, g.Gateway, "GET", fmt.Sprintf("/blob?size=%d%s", size, c.more)))
		resp := w.answer(t, "GET")
		if c.more != "" {
			stall(t, g)
		}
		hash := sha256.New()
		for left := size; left > 0; {
			n, err := io.CopyN(hash, resp.Body, min(left, 16<<20))
			if err != nil {
				t.Fatalf("%s: after %d bytes: %v", c.name, size-left+n, err)
			}
			left -= n
			most = max(most, resident(t, g.Process.PID()))
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n > 0 {
			t.Errorf("%s: %d bytes came after the end, %v", c.name, n, err)
		}
		o := outcomes(t, g.Gateway, before+1)[before].Body
		if o["body_sha256"] != hex.EncodeToString(hash.Sum(nil)) || o["bytes_out"] != float64(size) || o["result"] != "completed" {
			t.Errorf("%s: the outcome is %v, and the client got %x", c.name, o, hash.Sum(nil))
		}
	}
	return most
}

// stall waits until nothing moves between the target and a client that does not read.
func stall(t testing.TB, g *watched) {
	t.Helper()
	last, still := int64(-1), 0
	extproctest.Await(t, "everything to be full", 30*time.Second, func(context.Context) error {
		now := resident(t, g.Process.PID())
		if now == last {
			still++
		} else {
			last, still = now, 0
		}
		if still < 25 {
			return fmt.Errorf("the gateway's memory still changes: %d bytes", now)
		}
		return nil
	})
}

func decodeJSON(t testing.TB, from io.Reader, to any) {
	t.Helper()
	if err := json.NewDecoder(from).Decode(to); err != nil {
		t.Errorf("decode: %v", err)
	}
}
