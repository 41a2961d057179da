// Package supervisor runs Envoy beside the gateway: it writes a bootstrap, starts Envoy with it, starts it again when it ends by
// itself, and stops it last, when the gateway has drained. On Linux Envoy ends with the gateway, however that ends.
//
// The configuration or the environment names the binary. It is not checked: whoever can change it is Envoy (SECURITY.md). What
// Envoy prints is passed on and not read.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/xds"
)

// Options are what a [Supervisor] works with. All fields are required.
type Options struct {
	Config *config.Config
	Binary string    // of Envoy, see [Find]
	Output io.Writer // takes what Envoy prints
	Log    *slog.Logger
	Alarm  func(kind, detail string) // is told when Envoy ends by itself
}

// Supervisor runs Envoy and starts it again when it ends by itself.
type Supervisor struct {
	Options
	args    []string
	cancel  context.CancelFunc
	done    chan struct{}
	process atomic.Pointer[os.Process] // nil if the last start failed
}

// Delays between two starts of an Envoy that ends by itself.
const (
	firstRestart = 200 * time.Millisecond
	lastRestart  = 10 * time.Second
	stopWait     = 10 * time.Second
)

// Start writes a bootstrap into the data directory and starts Envoy with it.
func Start(o Options) (*Supervisor, error) {
	c := o.Config
	text, err := xds.Bootstrap(c)
	if err != nil {
		return nil, fmt.Errorf("make Envoy's bootstrap: %w", err)
	}
	bootstrap := filepath.Join(string(c.Data), "envoy-bootstrap.yaml")
	if err := datafile.Replace(datafile.Disk{}, bootstrap, text); err != nil {
		return nil, fmt.Errorf("write Envoy's bootstrap: %w", err)
	}
	if path, unix := c.Envoy.Admin.Unix(); unix {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("remove Envoy's old admin socket: %w", err)
		}
	}
	// --disable-hot-restart: it is not used, and each start would leave a file of shared memory behind.
	// --drain-strategy immediate: a request on a connection that is older than a change of its listener's filters is refused, so
	// the next answer on such a connection closes it. By default that could take ten minutes.
	args := []string{"-c", bootstrap, "--log-level", c.Envoy.LogLevel, "--disable-hot-restart", "--drain-strategy", "immediate", "--log-format-escaped"}
	if c.Envoy.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(c.Envoy.Concurrency))
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Supervisor{Options: o, args: args, cancel: cancel, done: make(chan struct{})}
	if err := s.launch(); err != nil {
		cancel()
		return nil, err
	}
	go guard.Func("Envoy's supervisor", func() {
		defer close(s.done)
		guard.Loop(ctx, "Envoy's supervisor", func() { s.run(ctx) })()
	})()
	return s, nil
}

// Find returns the path of Envoy's binary. It looks where the comment of envoy.path in package config says. named is $ENVOY.
func Find(c *config.Config, named string) (string, error) {
	if path := string(c.Envoy.Path); path != "" {
		return path, runnable("envoy.path", path)
	}
	if named != "" {
		return named, runnable("$ENVOY", named)
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	if path, err := filepath.Abs(filepath.Join(".tools", "envoy")); err == nil {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", errors.New("there is no Envoy: set envoy.path in the configuration or $ENVOY, put envoy on PATH, or run `make parts`")
}

func runnable(named, path string) error {
	if _, err := exec.LookPath(path); err != nil {
		return fmt.Errorf("%s is %s, which cannot be run: %w", named, path, err)
	}
	return nil
}

// raiseDescriptors lets Envoy open as many files as the system allows; every agent's connection is one. The Go runtime raises the
// limit for this process alone: unless a program sets it itself, its children get the shell's, often 1024.
func raiseDescriptors(log *slog.Logger) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	if err == nil {
		limit.Cur = limit.Max
		err = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
	if err != nil {
		log.Warn("the limit of open files stays as it is, and Envoy may take fewer connections than it could", "error", err)
	}
}

func (s *Supervisor) launch() error {
	raiseDescriptors(s.Log)
	cmd := exec.Command(s.Binary, s.args...) //nolint:noctx // a context would kill Envoy, and stop asks it to end first
	cmd.Stdout, cmd.Stderr = s.Output, s.Output
	cmd.SysProcAttr = ownProcess()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Binary, err)
	}
	s.Log.Info("Envoy started", "path", s.Binary, "pid", cmd.Process.Pid)
	s.process.Store(cmd.Process)
	return nil
}

// run waits for Envoy to end and starts it again, until it is told to stop.
func (s *Supervisor) run(ctx context.Context) {
	delay := firstRestart
	for {
		began := time.Now()
		if p := s.process.Load(); p != nil {
			state, err := p.Wait()
			if ctx.Err() != nil {
				return
			}
			detail := fmt.Sprint(state)
			if err != nil {
				detail = err.Error()
			}
			s.Alarm("envoy_ended", "Envoy ended by itself: "+detail)
		}
		if time.Since(began) > lastRestart {
			delay = firstRestart
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, lastRestart)
		if err := s.launch(); err != nil {
			s.Alarm("envoy_ended", err.Error())
			s.process.Store(nil)
		}
	}
}

// Stop asks Envoy to end, and kills it if it does not.
func (s *Supervisor) Stop() {
	s.cancel()
	if p := s.process.Load(); p != nil {
		if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.Log.Warn("stop Envoy", "error", err)
		}
		select {
		case <-s.done:
			return
		case <-time.After(stopWait):
			s.Log.Warn("Envoy did not end when asked, and is killed")
			if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				s.Log.Warn("kill Envoy", "error", err)
			}
		}
	}
	<-s.done
}

// Ready asks Envoy's admin interface. Envoy is ready when it serves any listener: the others' resources are missing, and the rest
// work. Without a listener the error is [ErrNoListener].
func (s *Supervisor) Ready(ctx context.Context) error {
	if _, err := s.ask(ctx, "/ready"); err != nil {
		return err
	}
	listeners, err := s.ask(ctx, "/listeners")
	if err == nil && strings.TrimSpace(listeners) == "" {
		err = ErrNoListener
	}
	return err
}

// ErrNoListener says that Envoy runs and serves nothing.
var ErrNoListener = errors.New("it has no listener")

// ask returns what Envoy's admin interface answers.
func (s *Supervisor) ask(ctx context.Context, path string) (string, error) {
	network, address := s.Config.Envoy.Admin.Network()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://envoy"+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask Envoy's admin interface: %w", err)
	}
	resp, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("the admin interface of Envoy does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not ready (%s)", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(text), err
}
