package evidence

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// crashDir makes a copy of the test program the gateway that will be killed.
var crashDir = flag.String("crash-dir", "", "append to the journal in this directory until killed")

func TestMain(m *testing.M) {
	flag.Parse()
	if *crashDir == "" {
		m.Run()
		return
	}
	if err := appendForEver(*crashDir); err != nil {
		fmt.Fprintln(os.Stdout, "error", err)
	}
}

// appendForEver says on standard output which records are durable, as soon as they are.
func appendForEver(dir string) error {
	j, err := Open(context.Background(), Options{Dir: dir, Node: "gw-1", SegmentBytes: 64 << 10, CheckpointEvery: 3 * time.Millisecond})
	if err != nil {
		return err
	}
	if err := j.Started(context.Background(), nil); err != nil {
		return err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		wg.Go(func() {
			for n := 0; errs[w] == nil; n++ {
				op := fmt.Sprintf("op-%d-%d-%d", os.Getpid(), w, n)
				r, err := j.Append(context.Background(), decided(op, gate.Allow))
				if err != nil {
					errs[w] = err
					return
				}
				mu.Lock()
				fmt.Fprintln(os.Stdout, r.Seq, r.Hash)
				mu.Unlock()
				if n%3 > 0 {
					errs[w] = j.Post(context.Background(), finished(op, r.Seq))
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// TestKillLosesNothing kills a gateway at a random moment, twenty times over the same journal: every record that was
// answered is there, the chain and the checkpoints hold, and no allowed operation is left without an outcome.
func TestKillLosesNothing(t *testing.T) {
	f := newFixture(t)
	f.opts.Now = nil
	durable := map[uint64]string{}
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 20 {
		cmd := exec.Command(os.Args[0], "-crash-dir="+f.dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := random.IntN(400)
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			seq, hash, _ := strings.Cut(lines.Text(), " ")
			number, err := strconv.ParseUint(seq, 10, 64)
			if err != nil {
				t.Fatalf("round %d: the gateway says %q", round, lines.Text())
			}
			durable[number] = hash
			if n == kill {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
	}
	j := f.open()
	if err := j.Started(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	r := f.mustVerify()
	for e, err := range Records(context.Background(), f.dir, Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := durable[e.Seq]; ok && want != e.Hash {
			t.Errorf("record %d is not the one that was answered", e.Seq)
		}
		delete(durable, e.Seq)
	}
	if len(durable) > 0 {
		t.Errorf("%d records that were answered are not there", len(durable))
	}
	if len(r.Findings) > 0 || r.Open > 0 || r.Unknown == 0 {
		t.Errorf("completeness %+v", r.Completeness)
	}
}
