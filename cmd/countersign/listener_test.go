package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestSlowClientsOfOurOwnListeners: the admin interface, the console, the profiles and the socket of Envoy hold no connection
// for somebody who says nothing, or nothing whole.
func TestSlowClientsOfOurOwnListeners(t *testing.T) {
	t.Parallel()
	profiles := extproctest.FreeAddress(t)
	g := start(t, allowAll+"-- config.yaml --\npeople: {issuer: \"${ISSUER}\", client_id: console}\n", story.Options{Args: []string{"--pprof", profiles}})
	for _, l := range []struct{ name, network, address string }{
		{"admin", "tcp", g.Admin},
		{"console", "tcp", g.Console},
		{"profiles", "tcp", profiles},
		{"envoy", "unix", filepath.Join(g.Data(), "envoy.sock")},
	} {
		post := fmt.Sprintf("POST /approvals/x/decision HTTP/1.1\r\nHost: %s\r\nContent-Length: 100000\r\n\r\n", l.address)
		for _, slow := range []struct{ name, begin, again string }{
			{"nothing", "", ""},
			{"a head that trickles", "GET / HTTP/1.1\r\nHost: " + l.address + "\r\n", "X-More: 1\r\n"},
			{"a body that trickles", post, "x"},
			{"a body of which nothing comes", post, ""},
		} {
			t.Run(l.name+": "+slow.name, func(t *testing.T) {
				t.Parallel()
				conn, err := net.Dial(l.network, l.address)
				must(t, err)
				defer conn.Close()
				must(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
				_, err = io.WriteString(conn, slow.begin)
				must(t, err)
				stop := make(chan struct{})
				defer close(stop)
				if slow.again != "" {
					go trickle(conn, slow.again, stop)
				}
				_, err = io.Copy(io.Discard, conn)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection is still there")
				}
			})
		}
	}
}
