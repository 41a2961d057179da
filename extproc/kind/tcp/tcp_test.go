package tcp_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
)

var update = flag.Bool("update", false, "write the evidence of the stories")

const readers = `-- policy.rego --
package rules.payments

allow contains {"id": "reader"} if endswith(input.principal.subject, "/reader")
`

// start runs a gateway that lets readers in. more are more files of a story.
func start(t *testing.T, w *world, more string) *story.Gateway {
	t.Helper()
	return story.Start(t, txtar.Parse([]byte(readers+more)), story.Options{Kind: w.kind()})
}

// An agent that says nothing is not asked about, and hears nothing. A certificate of another authority does not get that far.
func TestWhoHearsNothing(t *testing.T) {
	w := newWorld(t)
	start(t, w, "")
	silent := w.dial("/reader")
	_ = silent.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	if got, err := io.ReadAll(silent); len(got) > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an agent that says nothing heard %q, error %v", got, err)
	}
	known := w.authority
	other := extproctest.NewAuthority(t)
	other.Pool = known.Pool // it takes the gateway's certificate
	w.authority = other
	stranger := w.dial("/reader")
	fmt.Fprintln(stranger, "ping")
	if got, err := io.ReadAll(stranger); len(got) > 0 || err == nil {
		t.Errorf("a certificate of another authority heard %q, error %v", got, err)
	}
	if n := w.target.connected.Load(); n != 0 {
		t.Errorf("the target was connected to %d times", n)
	}
}

// A connection that was let in ends with the gateway, and with the resource as it was.
func TestConnectionsThatAreCut(t *testing.T) {
	for name, cut := range map[string]func(w *world, g *story.Gateway){
		"the gateway stops": func(_ *world, g *story.Gateway) { g.Process.Stop() },
		"the target is another": func(w *world, g *story.Gateway) {
			was, err := os.ReadFile(g.Config)
			if err != nil {
				t.Fatal(err)
			}
			g.Write("countersign.yaml", strings.ReplaceAll(string(was), "tcp://"+w.target.address, "tcp://"+startTarget(t).address))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			g := start(t, w, "")
			c := w.dial("/reader")
			r := bufio.NewReader(c)
			fmt.Fprintln(c, "ping")
			for range 2 {
				if _, err := r.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			cut(w, g)
			extproctest.Await(t, "the end of the connection", 20*time.Second, func(context.Context) error {
				fmt.Fprintln(c, "ping")
				if _, err := r.ReadString('\n'); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					return fmt.Errorf("it goes on: %w", err)
				}
				return nil
			})
		})
	}
}
