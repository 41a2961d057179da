package extproctest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopBudget is how long a process may take to exit after SIGTERM: longer than any drain that a part is configured with.
const stopBudget = 30 * time.Second

// Command is a program to run as a part.
type Command struct {
	Name string // how failures name it
	Path string
	Args []string
	Dir  string              // the test's own unless set
	Env  []string            // added to the test's own environment
	As   *syscall.Credential // another user; the test's own unless set
	Stop syscall.Signal      // asks it to leave; SIGTERM unless set
}

// Process is a running part. It stops with the test; its output is shown if the test failed.
type Process struct {
	tb      TB
	command Command
	cmd     *exec.Cmd
	output  output
	done    chan struct{}
	err     error // of the process; to be read after done
	orphans bool  // the process left children in its group; to be read after done
}

// Start runs c until the test ends.
func Start(tb TB, c Command) *Process {
	tb.Helper()
	p := &Process{tb: tb, command: c, done: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Dir = c.Dir
	p.cmd.Env = append(p.cmd.Environ(), c.Env...)
	p.cmd.Stdout = &p.output
	p.cmd.Stderr = &p.output
	p.cmd.SysProcAttr = childAttributes()
	p.cmd.SysProcAttr.Credential = c.As
	p.cmd.WaitDelay = time.Second // a grandchild may hold the pipe open

	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		tb.Fatalf("start %s: %v", c.Name, err)
	}
	tb.Cleanup(p.end)
	return p
}

// run starts the process and waits for it on one locked thread. The kernel kills the child when the thread that forked it ends, and
// the Go runtime may end any thread that is not locked.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	p.orphans = syscall.Kill(-p.cmd.Process.Pid, 0) == nil
	close(p.done)
}

// errExited says that a process ended with status 0 when it should not have ended.
var errExited = errors.New("exit status 0")

// PID is the process id, which is that of the process group too.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has exited.
func (p *Process) Done() <-chan struct{} { return p.done }

// Log is what the process wrote to its standard output and error so far; the last megabyte of it.
func (p *Process) Log() string { return p.output.String() }

// Wait waits for the process to exit by itself. The error is that of the process ([exec.ExitError] for a status other than
// 0), or of ctx.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to exit: %w", p.command.Name, ctx.Err())
	}
}

// WaitLog waits until the process has written text.
func (p *Process) WaitLog(ctx context.Context, text string) error {
	for {
		log, changed := p.output.snapshot()
		if strings.Contains(log, text) {
			return nil
		}
		select {
		case <-changed:
		case <-p.done:
			if strings.Contains(p.Log(), text) {
				return nil
			}
			return fmt.Errorf("%s exited before it wrote %q: %w", p.command.Name, text, cmp.Or(p.err, errExited))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to write %q: %w", p.command.Name, text, ctx.Err())
		}
	}
}

// awaitReady waits until probe says that the process is ready, and fails the test when it exits or time runs out.
func (p *Process) awaitReady(within time.Duration, probe func(context.Context) error) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := await(ctx, probe)
	if err == nil {
		return
	}
	select {
	case <-p.done:
		p.tb.Fatalf("%s exited (%v) before it was ready:\n%s", p.command.Name, p.err, tail(p.Log(), 40))
	default:
		p.tb.Fatalf("wait %v for %s to be ready: %v\n%s", within, p.command.Name, err, tail(p.Log(), 40))
	}
}

// Signal sends sig to the process, unless it has exited.
func (p *Process) Signal(sig syscall.Signal) {
	p.tb.Helper()
	select {
	case <-p.done:
		return
	default:
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, syscall.ESRCH) && !p.exited() {
		p.tb.Fatalf("send %v to %s: %v", sig, p.command.Name, err)
	}
}

func (p *Process) exited() bool {
	select {
	case <-p.done:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// Kill ends the process with SIGKILL, as a crash does, and returns when it is gone. Its children live on until the test ends.
func (p *Process) Kill() {
	p.tb.Helper()
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to leave and returns when it has exited. If it does not, it is killed, and the test fails.
func (p *Process) Stop() {
	p.tb.Helper()
	p.Signal(cmp.Or(p.command.Stop, syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(stopBudget):
		p.tb.Logf("%s did not leave within %v and was killed", p.command.Name, stopBudget)
		p.Kill()
	}
}

// end is the cleanup: nothing of the process group is left when it returns.
func (p *Process) end() {
	p.tb.Helper()
	p.Stop()
	if p.orphans {
		// The kernel does not give a group's number to another process while the group has members.
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	}
	log := p.Log()
	if strings.Contains(log, "WARNING: DATA RACE") {
		p.tb.Fatalf("%s has a data race:\n%s", p.command.Name, log)
	}
	if p.tb.Failed() {
		p.tb.Logf("output of %s (%v):\n%s", p.command.Name, p.err, tail(log, 200))
	}
}

// output keeps the end of what a process writes and wakes those who wait for more.
type output struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{}
}

const outputLimit = 1 << 20

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if over := len(o.text) - outputLimit; over > 0 {
		o.text = append(o.text[:0], o.text[over:]...)
	}
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
	return len(p), nil
}

func (o *output) String() string {
	text, _ := o.snapshot()
	return text
}

// snapshot returns the text and a channel that is closed when there is more.
func (o *output) snapshot() (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed == nil {
		o.changed = make(chan struct{})
	}
	return string(o.text), o.changed
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{fmt.Sprintf("… %d lines left out", len(all)-lines)}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}
