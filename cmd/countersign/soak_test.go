//go:build soak

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// asShipped builds the gateway as it ships, without the race detector, which takes memory of its own.
func asShipped(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(extproctest.Dir(t), "countersign")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// TestSoakDownloadIsFlat streams 1 GB by the gateway, fast and then slowly: its memory grows by at most 8 MiB. What it grows
// from is a gateway that has been at work: an idle one takes about 60 MiB more with its first download, of which 12 MiB
// are in use and the rest is the room that the collector leaves (GOGC=400, see serve).
func TestSoakDownloadIsFlat(t *testing.T) {
	g := watch(t, allowAll, story.Options{Binary: asShipped(t)})
	first := download(t, g, 1<<30)
	grown := download(t, g, 1<<30) - first
	t.Logf("an idle gateway has %d MiB, one at work %d MiB, and 4 GiB later it has %d KiB more", g.before.resident>>20, first>>20, grown>>10)
	if grown > 8<<20 {
		t.Errorf("memory grew by %d KiB, and 8 MiB are fine", grown>>10)
	}
	g.unharmed(t)
}

// TestSoakConnections has ten thousand clients wait at once.
func TestSoakConnections(t *testing.T) {
	const clients = 10_000
	// Each client is a descriptor here, and so is what the target has for it.
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < 2*clients+1000 {
		t.Logf("the system allows %d open files, and %d clients take %d: fewer are held at the target", limit.Max, clients, 2*clients+1000)
	}
	g := watch(t, allowAll, story.Options{Binary: asShipped(t)})
	idle(t, g, min(clients, int(limit.Max)-4000))
	held := min(clients, int(limit.Max)/2-2000, 8000) // the target's circuit breaker is at 8192
	crowd(t, g, held)
	// What the first crowd made room for (tables, pools, Envoy's connections) serves the second: nothing is added.
	g.ended(t)
	g.before = g.vitals(t)
	crowd(t, g, held)
	g.unharmed(t)
}

// idle opens that many connections, each of which asks once and then stays.
func idle(t testing.TB, g *watched, clients int) {
	t.Helper()
	text := head(t, g.Gateway, "GET", "/v1/payments/7") + "\r\n"
	conns := make([]*wire, clients)
	var wg sync.WaitGroup
	failed := make(chan error, clients)
	for worker := range 16 {
		wg.Go(func() {
			for i := worker; i < clients; i += 16 {
				if err := askOnce(t, g, &conns[i], text); err != nil {
					failed <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	v := g.vitals(t)
	t.Logf("%d connections are open: %+v, before %+v", clients, v, g.before)
	for _, w := range conns {
		_ = w.Close()
	}
}

func askOnce(t testing.TB, g *watched, to **wire, text string) error {
	t.Helper()
	conn, err := net.Dial("tcp", g.Address)
	if err != nil {
		return err
	}
	*to = &wire{conn, bufio.NewReader(conn)}
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	resp, err := http.ReadResponse((*to).Reader, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		return fmt.Errorf("answer %d, %v", resp.StatusCode, err)
	}
	return nil
}
