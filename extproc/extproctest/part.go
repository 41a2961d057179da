package extproctest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const modulePath = "github.com/countersign/countersign"

//go:embed testdata/otelcol-builder.yaml
var collectorManifest []byte

// collectorBuilder is the release that testdata/otelcol-builder.yaml names.
const collectorBuilder = "go.opentelemetry.io/collector/cmd/builder@v0.159.0"

// Parts finds the programs that are not built from this module, and brings those that are missing.
type Parts struct {
	Dir      string              // where they are kept; .tools of the repository
	Getenv   func(string) string // $ENVOY
	Progress io.Writer           // one line for each thing that takes time; required to fetch
}

// NewParts keeps parts in .tools of the repository that the working directory is in. Getenv is os.Getenv, passed by the
// entry of a program or test.
func NewParts(getenv func(string) string, progress io.Writer) (Parts, error) {
	root, err := Root()
	if err != nil {
		return Parts{}, err
	}
	return Parts{Dir: filepath.Join(root, ".tools"), Getenv: getenv, Progress: progress}, nil
}

// Root is the folder of this module, from the working directory up.
func Root() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module "+modulePath+"\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the repository: no go.mod of %s in %s or above", modulePath, start)
		}
	}
}

// Envoy returns the path of an Envoy 1.40, fetching it when there is none.
func (p Parts) Envoy(ctx context.Context) (string, error) {
	if p.Getenv("ENVOY") != "" {
		// Whoever names a binary wants that one: what is wrong with it is better said than worked around.
		return p.FindEnvoy(ctx)
	}
	return p.bring(ctx, p.FindEnvoy, p.fetchEnvoy)
}

// FindEnvoy returns the path of an Envoy 1.40: $ENVOY, else envoy on PATH, else the one that was fetched. An $ENVOY of
// another version is an error; one on PATH is passed over.
func (p Parts) FindEnvoy(ctx context.Context) (string, error) {
	if named := p.Getenv("ENVOY"); named != "" {
		return named, checkEnvoy(ctx, named)
	}
	if path, err := exec.LookPath("envoy"); err == nil && checkEnvoy(ctx, path) == nil {
		return path, nil
	}
	fetched := filepath.Join(p.Dir, "envoy")
	if !exists(fetched) {
		return "", fmt.Errorf("envoy 1.40 is not $ENVOY, not on PATH and not %s; bring it with: make parts", fetched)
	}
	return fetched, checkEnvoy(ctx, fetched)
}

func checkEnvoy(ctx context.Context, path string) error {
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ask %s for its version: %w: %s", path, err, bytes.TrimSpace(out))
	}
	if !bytes.Contains(out, []byte("/1.40.")) {
		return fmt.Errorf("%s is not Envoy 1.40: it says %q", path, bytes.TrimSpace(out))
	}
	return nil
}

// Collector returns the path of the OpenTelemetry collector, building it when there is none. That takes minutes.
func (p Parts) Collector(ctx context.Context) (string, error) {
	return p.bring(ctx, p.FindCollector, p.buildCollector)
}

// FindCollector returns the path of the collector that was built from the manifest as it is now.
func (p Parts) FindCollector(context.Context) (string, error) {
	built := filepath.Join(p.Dir, "otelcol")
	manifest, err := os.ReadFile(built + ".yaml")
	if err != nil || !exists(built) || !bytes.Equal(manifest, collectorManifest) {
		return "", fmt.Errorf("the OpenTelemetry collector is not built at %s; bring it with: make parts", built)
	}
	return built, nil
}

func (p Parts) buildCollector(ctx context.Context) error {
	dir, err := os.MkdirTemp(p.Dir, "otelcol-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "builder.yaml"), collectorManifest, 0o600); err != nil {
		return err
	}

	p.say("collector: building it with %s (two to five minutes the first time)", collectorBuilder)
	build := exec.CommandContext(ctx, "go", "run", collectorBuilder, "--config", "builder.yaml")
	build.Dir = dir
	// The builder makes a module of its own, whose requirements it has go fill in.
	build.Env = append(build.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0")
	if err := p.runWithProgress(build, "collector: still building"); err != nil {
		return fmt.Errorf("build the collector with %s: %w", collectorBuilder, err)
	}

	built := filepath.Join(p.Dir, "otelcol")
	if err := os.Rename(filepath.Join(dir, "out", "otelcol"), built); err != nil {
		return err
	}
	// The manifest is what says that the build is whole and current, so it comes last.
	return os.Rename(filepath.Join(dir, "builder.yaml"), built+".yaml")
}

// bring finds a part, or makes it and finds it again. One process at a time makes anything in a Dir; those that waited find
// it made.
func (p Parts) bring(
	ctx context.Context, find func(context.Context) (string, error), create func(context.Context) error,
) (string, error) {
	if path, err := find(ctx); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if path, err := find(ctx); err == nil {
		return path, nil
	}
	if err := create(ctx); err != nil {
		return "", err
	}
	return find(ctx)
}

// lock waits for the lock of Dir, saying so, for as long as ctx allows.
func (p Parts) lock(ctx context.Context) (unlock func(), err error) {
	name := filepath.Join(p.Dir, "lock")
	var file *os.File
	said := false
	err = await(ctx, func(context.Context) error {
		file, err = lockFile(name, syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) && !said {
			said = true
			p.say("parts: waiting for another process that holds %s", name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return func() { file.Close() }, nil
}

// runWithProgress runs cmd, which may take minutes, and repeats text while it does. The error has the end of its output.
func (p Parts) runWithProgress(cmd *exec.Cmd, text string) error {
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // `go run` and the builder start others
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%w:\n%s", err, tail(out.String(), 30))
			}
			return nil
		case <-tick.C:
			p.say("%s (%v)", text, time.Since(begin).Round(time.Second))
		}
	}
}

func (p Parts) say(format string, args ...any) {
	fmt.Fprintf(p.Progress, format+"\n", args...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
