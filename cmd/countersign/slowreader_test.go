package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestAgentsThatReadNothing: one agent asks for large answers, 450 times, and reads none. What is held of each is a few pieces of
// it, and another agent is served.
func TestAgentsThatReadNothing(t *testing.T) {
	t.Parallel()
	const memory, many = 64 << 20, 450
	part := []byte(strings.Repeat(`{"n":"`+strings.Repeat("x", 200)+`"},`, 300))
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for range 800 {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	}))
	defer target.Close()
	g := start(t, fmt.Sprintf("%s-- config.yaml --\nlimits: {memory: %d}\n", allowAll, memory), story.Options{Binary: extproctest.BuildShipped(t), Target: story.TargetOptions{Unrecorded: true}})
	g.Process.Stop()
	text, err := os.ReadFile(g.Config)
	must(t, err)
	g.Write("countersign.yaml", string(text)+fmt.Sprintf("  - {name: own, kind: http, policy: payments, listen: {address: %q, host: own.test}, target: %q}\n", g.Address, target.URL))
	g.Run()
	stop := another(t, g)
	for range many {
		c, err := net.Dial("tcp", g.Address)
		must(t, err)
		defer func() { _ = c.Close() }()
		must(t, c.(*net.TCPConn).SetReadBuffer(4096))
		_, err = fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: own.test\r\nAuthorization: Bearer %s\r\n\r\n", g.Issuer.Token(nil))
		must(t, err)
	}
	// Nothing tells when no more comes: it has come when the process has grown no more for a while.
	most, still := int64(0), 0
	extproctest.Await(t, "the process to grow no more", 40*time.Second, func(context.Context) error {
		if now := resident(t, g.Process.PID()); now > most+2<<20 {
			most, still = now, 0
		}
		if still++; still < 150 {
			return fmt.Errorf("it has %d MiB, and grew just now", most>>20)
		}
		return nil
	})
	answers, refused, slowest := stop()
	t.Logf("%d MiB at most; another agent had %d answers, the slowest in %v", peak(t, g.Process.PID())>>20, answers, slowest)
	if refused > 0 || answers == 0 {
		t.Errorf("another agent was refused %d of %d times", refused, answers)
	}
	if most, bound := peak(t, g.Process.PID()), int64(memory+memory/2+192<<20+many*250<<10); most > bound {
		t.Errorf("the gateway had %d MiB, and says that it stays below %d", most>>20, bound>>20)
	}
}
