package extproctest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// envoyBudget is how long Envoy may take to start, with xDS. Alone it takes a quarter of a second; on two busy cores, with a gateway
// under the race detector, several seconds.
const envoyBudget = 60 * time.Second

// EnvoyConfig is how to run Envoy. One of Bootstrap and File is required.
type EnvoyConfig struct {
	Bootstrap   string // YAML or JSON
	File        string // holds the same; its relative paths are relative to Dir
	Dir         string // where Envoy runs
	Concurrency int    // worker threads; 1 unless set
	LogLevel    string // "warning" unless set
	Args        []string
}

// EnvoyProcess is a running Envoy.
type EnvoyProcess struct {
	*Process
	admin *http.Client
}

// StartEnvoy runs Envoy and returns when it is ready: when it has its listeners, from the file or by xDS. Its admin interface is on
// a unix socket of ours, whatever the bootstrap says.
func StartEnvoy(tb TB, c EnvoyConfig) *EnvoyProcess {
	tb.Helper()
	dir := Dir(tb)
	socket := filepath.Join(dir, "admin.sock")
	e := &EnvoyProcess{
		Process: Start(tb, c.command(tb, dir, "--config-yaml", fmt.Sprintf("admin: {address: {pipe: {path: %q}}}", socket))),
		admin:   unixClient(socket),
	}
	e.awaitReady(envoyBudget, e.ready)
	return e
}

// ValidateEnvoy asks Envoy whether it takes the configuration. The error is what Envoy says.
func ValidateEnvoy(tb TB, c EnvoyConfig) error {
	tb.Helper()
	command := c.command(tb, Dir(tb), "--mode", "validate")
	ctx, cancel := context.WithTimeout(context.Background(), envoyBudget)
	defer cancel()
	cmd := exec.CommandContext(ctx, command.Path, command.Args...)
	cmd.Dir = command.Dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("envoy refuses the configuration: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

func (c EnvoyConfig) command(tb TB, dir string, args ...string) Command {
	tb.Helper()
	file := c.File
	if c.Bootstrap != "" {
		file = filepath.Join(dir, "bootstrap.yaml")
		if err := os.WriteFile(file, []byte(c.Bootstrap), 0o600); err != nil {
			tb.Fatalf("write Envoy's bootstrap: %v", err)
		}
	}
	args = append(args,
		"--config-path", file,
		"--concurrency", strconv.Itoa(cmp.Or(c.Concurrency, 1)),
		"--log-level", cmp.Or(c.LogLevel, "warning"),
		"--disable-hot-restart", // so that several Envoys need no base ids
	)
	return Command{Name: "envoy", Path: findPart(tb, Parts.FindEnvoy), Args: append(args, c.Args...), Dir: c.Dir}
}

// findPart finds a part, and fails the test if it is missing: a test that skips is a test that nobody runs.
func findPart(tb TB, find func(Parts, context.Context) (string, error)) string {
	tb.Helper()
	parts, err := NewParts(os.Getenv, io.Discard) //nolint:forbidigo // $ENVOY is for whoever runs the tests
	if err != nil {
		tb.Fatalf("%v", err)
	}
	path, err := find(parts, context.Background())
	if err != nil {
		tb.Fatalf("%v", err)
	}
	return path
}

func (e *EnvoyProcess) ready(ctx context.Context) error {
	_, err := e.ask(ctx, http.MethodGet, "/ready")
	return err
}

// Admin sends a request to the admin interface and returns the body of its answer, which must be 200.
func (e *EnvoyProcess) Admin(method, path string) []byte {
	e.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	body, err := e.ask(ctx, method, path)
	if err != nil {
		e.tb.Fatalf("ask Envoy's admin interface: %v", err)
	}
	return body
}

func (e *EnvoyProcess) ask(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.admin.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(body))
	}
	return body, nil
}

// ConfigDump returns Envoy's configuration, with endpoints, as JSON.
func (e *EnvoyProcess) ConfigDump() []byte {
	e.tb.Helper()
	return e.Admin(http.MethodGet, "/config_dump?include_eds")
}

// Stats returns the counters and gauges by name.
func (e *EnvoyProcess) Stats() map[string]int64 {
	e.tb.Helper()
	stats := map[string]int64{}
	lines := bufio.NewScanner(bytes.NewReader(e.Admin(http.MethodGet, "/stats")))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			stats[name] = n
		}
	}
	return stats
}

func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}
