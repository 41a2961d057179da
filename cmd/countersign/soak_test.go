//go:build soak

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestSoakDownloadIsFlat streams 1 GB by the gateway, fast and then slowly: its memory grows by at most 8 MiB. What it grows
// from is a gateway that has been at work: an idle one takes about 60 MiB more with its first download, of which 12 MiB
// are in use and the rest is the room that the collector leaves (GOGC=400, see serve).
func TestSoakDownloadIsFlat(t *testing.T) {
	g := watch(t, allowAll, story.Options{Binary: extproctest.BuildShipped(t)})
	first := download(t, g, 1<<30)
	grown := download(t, g, 1<<30) - first
	t.Logf("an idle gateway has %d MiB, one at work %d MiB, and 4 GiB later it has %d KiB more", g.before.resident>>20, first>>20, grown>>10)
	if grown > 8<<20 {
		t.Errorf("memory grew by %d KiB, and 8 MiB are fine", grown>>10)
	}
	g.unharmed(t)
}

// TestSoakConnections has ten thousand clients, each on a connection of its own, wait for the target at once, and be answered,
// three times over. The target speaks HTTP/2: Envoy would otherwise have as many connections again, and the system may not allow as many
// descriptors.
func TestSoakConnections(t *testing.T) {
	const clients = 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < clients+2000 {
		t.Fatalf("the system allows %d open files, and %d clients take %d: raise the hard limit (ulimit -Hn)", limit.Max, clients, clients+2000)
	}
	g := watch(t, allowAll+"-- resource.yaml --\ntarget_http2: true\n", story.Options{Binary: extproctest.BuildShipped(t)})
	idle(t, g, clients)
	// What crowds make room for (tables, the journal's batches, Envoy's connections) serves the next: nothing is added.
	crowd(t, g, clients)
	g.ended(t)
	crowd(t, g, clients)
	g.ended(t)
	g.before = g.vitals(t)
	crowd(t, g, clients)
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
