package extproctest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// recorder is a test that failed or not, and what it was told.
type recorder struct {
	*testing.T
	failed bool
	log    strings.Builder
}

func (r *recorder) Failed() bool { return r.failed }

func (r *recorder) Logf(format string, args ...any) { fmt.Fprintf(&r.log, format, args...) }

func TestOutputIsShownOnlyWhenTheTestFailed(t *testing.T) {
	for _, c := range []struct {
		name   string
		failed bool
		want   bool
	}{
		{"a test that passed", false, false},
		{"a test that failed", true, true},
	} {
		r := &recorder{failed: c.failed}
		t.Run(c.name, func(t *testing.T) {
			r.T = t
			p := Start(r, Command{Name: "shell", Path: "/bin/sh", Args: []string{"-c", "echo spoken; exec cat"}})
			if err := p.WaitLog(within(t), "spoken"); err != nil {
				t.Fatal(err)
			}
		})
		if got := strings.Contains(r.log.String(), "spoken"); got != c.want {
			t.Errorf("%s: output shown: %t, want %t; log: %s", c.name, got, c.want, r.log.String())
		}
	}
}

func TestDataRaceOfAPartFailsTheTest(t *testing.T) {
	err := Run(io.Discard, func(tb TB) {
		p := Start(tb, Command{Name: "shell", Path: "/bin/sh", Args: []string{"-c", "echo 'WARNING: DATA RACE'"}})
		<-p.Done()
	})
	if err == nil || !strings.Contains(err.Error(), "data race") {
		t.Errorf("the error is %v", err)
	}
}

func TestWaitLogEndsWithTheProcess(t *testing.T) {
	p := Start(t, Command{Name: "shell", Path: "/bin/sh", Args: []string{"-c", "exit 3"}})
	err := p.WaitLog(within(t), "never")
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("the error is %v", err)
	}
}

func TestStopLeavesNoGrandchild(t *testing.T) {
	var grandchild int
	t.Run("start", func(t *testing.T) {
		p := Start(t, Command{Name: "shell", Path: "/bin/sh", Args: []string{"-c", "sleep 1000 & echo pid=$!; wait"}})
		if err := p.WaitLog(within(t), "\n"); err != nil {
			t.Fatal(err)
		}
		grandchild = pidIn(t, p.Log())
	})
	awaitGone(t, grandchild)
}

// A test binary that runs into its time limit panics in a goroutine of its own: no cleanup runs.
func TestNoProcessOutlivesTheTestBinary(t *testing.T) {
	if os.Getenv("EXTPROCTEST_DIE") != "" { //nolint:forbidigo // the parent test sets it
		p := Start(t, Command{Name: "sleep", Path: "/bin/sleep", Args: []string{"1000"}})
		fmt.Fprintf(os.Stdout, "pid=%d\n", p.PID())
		go panic("as the time limit does")
		select {}
	}
	self := exec.Command(os.Args[0], "-test.run=^TestNoProcessOutlivesTheTestBinary$")
	self.Env = append(self.Environ(), "EXTPROCTEST_DIE=1")
	out, err := self.Output()
	if err == nil {
		t.Fatalf("the binary did not die:\n%s", out)
	}
	awaitGone(t, pidIn(t, string(out)))
}

func TestKillIsNotAsked(t *testing.T) {
	p := Start(t, Command{Name: "shell", Path: "/bin/sh", Args: []string{"-c", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01; done"}})
	if err := p.WaitLog(within(t), "ready"); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if p.Wait(within(t)) == nil || strings.Contains(p.Log(), "asked") {
		t.Errorf("it ended with %v and wrote %q", p.err, p.Log())
	}
}

func pidIn(t *testing.T, text string) int {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		if digits, ok := strings.CutPrefix(lines.Text(), "pid="); ok {
			if pid, err := strconv.Atoi(digits); err == nil {
				return pid
			}
		}
	}
	t.Fatalf("no pid= in %q", text)
	return 0
}

// awaitGone waits until pid has ended. A zombie has: where nobody reaps orphans, as in many containers, it stays.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	ctx := within(t)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-ctx.Done():
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d is still there: %s", pid, stat)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
