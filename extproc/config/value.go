package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/extproc/loopback"
)

// Path is a file or directory. Reading a configuration makes it absolute: relative paths start at the file's directory.
type Path string

// Duration is a time.Duration, written like "10s" or "1m30s".
type Duration time.Duration

// Std returns d as a time.Duration.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// Size is a number of bytes, written as a plain number or with the unit B, KiB, MiB or GiB.
type Size int64

// Address is "HOST:PORT", or "unix:PATH".
type Address string

// Unix returns the path of a unix socket address.
func (a Address) Unix() (path string, ok bool) { return strings.CutPrefix(string(a), "unix:") }

// Network returns the arguments for net.Listen.
func (a Address) Network() (network, address string) {
	if path, ok := a.Unix(); ok {
		return "unix", path
	}
	return "tcp", string(a)
}

// Loopback reports whether only this machine can reach the address.
func (a Address) Loopback() bool {
	if _, ok := a.Unix(); ok {
		return true
	}
	host, _, err := net.SplitHostPort(string(a))
	return err == nil && loopback.Host(host)
}

// namesHost reports whether a link can lead to the address: not to a unix socket, nor to 0.0.0.0 and the like.
func (a Address) namesHost() bool {
	host, _, err := net.SplitHostPort(string(a))
	ip, notIP := netip.ParseAddr(host)
	_, unix := a.Unix()
	return err == nil && !unix && host != "" && (notIP != nil || !ip.Unmap().IsUnspecified())
}

func parseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write it like 10s, 5m or 1h30m", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("%q is negative", s)
	}
	return Duration(d), nil
}

var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}}

func parseSize(s string) (Size, error) {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/u.bytes {
			break
		}
		return Size(n * u.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size: write it like 65536, 64KiB, 1MiB or 2GiB", s)
}

func resolvePath(dir, s string) Path {
	if s == "" {
		return ""
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(dir, s)
	}
	return Path(filepath.Clean(s))
}

func resolveAddress(dir, s string) Address {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return Address("unix:" + string(resolvePath(dir, path)))
	}
	return Address(s)
}
