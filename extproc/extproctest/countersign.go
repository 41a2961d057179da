package extproctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// gatewayBudget is how long the gateway may take to be ready: it fetches keys, compiles policies and opens the journal.
const gatewayBudget = 60 * time.Second

// Countersign is how to run the gateway.
type Countersign struct {
	Path   string   // the binary; that of Build unless set
	Config string   // the configuration file
	Admin  string   // its listen.admin, host and port
	Args   []string // more arguments of serve, such as --envoy
	Env    []string
}

// StartCountersign builds the gateway if that has not been done, runs `countersign serve` and returns when it is ready. A
// data race in it fails the test.
func StartCountersign(tb TB, c Countersign) *Process {
	tb.Helper()
	if c.Path == "" {
		c.Path = Build(tb)
	}
	p := Start(tb, Command{
		Name: "countersign", Path: c.Path, Env: c.Env,
		Args: append([]string{"serve", "--config", c.Config}, c.Args...),
	})
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	p.awaitReady(gatewayBudget, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Admin+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz says %s: %s", resp.Status, body)
		}
		return nil
	})
	return p
}

// Build builds the countersign binary and returns its path. If there is a C compiler, it builds with the race detector, which needs
// one. Each test binary builds once, and links only if something has changed.
func Build(tb TB) string { return built(tb, build) }

// BuildShipped is Build without the race detector, for measuring.
func BuildShipped(tb TB) string { return built(tb, buildShipped) }

func built(tb TB, build func() (string, error)) string {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatalf("build countersign: %v", err)
	}
	return path
}

var (
	build        = sync.OnceValues(func() (string, error) { return buildTo("countersign-test", canRace()) })
	buildShipped = sync.OnceValues(func() (string, error) { return buildTo("countersign-shipped", false) })
)

func buildTo(name string, race bool) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(root, ".tools", name)
	args := []string{"build", "-buildvcs=false", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	parts := Parts{Dir: filepath.Join(root, ".tools"), Progress: io.Discard}
	if err := os.MkdirAll(parts.Dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := parts.lock(context.Background())
	if err != nil {
		return "", err
	}
	defer unlock()
	cmd := exec.Command("go", append(args, "./cmd/countersign")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return ownCopy(binary)
}

// ownCopy gives this process a name of its own for a binary, which it keeps when another run of the tests builds anew: go build
// writes a new file in the place of the old one. The names of processes that have ended are removed.
func ownCopy(binary string) (string, error) {
	dir := binary + ".of"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	owners, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, owner := range owners {
		pid, err := strconv.Atoi(owner.Name())
		if err != nil || pid == os.Getpid() || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			if err := os.Remove(filepath.Join(dir, owner.Name())); err != nil {
				return "", err
			}
		}
	}
	own := filepath.Join(dir, strconv.Itoa(os.Getpid()))
	return own, os.Link(binary, own)
}

// canRace reports whether the race detector can be linked. It needs cgo, which Go turns off without a C compiler.
func canRace() bool {
	out, err := exec.Command("go", "env", "CGO_ENABLED").Output()
	return err == nil && strings.TrimSpace(string(out)) == "1"
}
