// Package memory bounds the memory of the process: how much operations may take while they are judged ([Budget]), how large the
// whole program may grow ([Limit]), and how often garbage is collected while operations wait ([Collect]). Package lane shares the
// budget among agents.
package memory

import (
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// Budget returns how many bytes may be under judgement at one time: what is configured (limits.memory), or if that is 0 a share
// of the machine's memory.
func Budget(configured int64) int64 { return budget(configured, machine(os.ReadFile)) }

func budget(configured, machine int64) int64 {
	if configured > 0 {
		return configured
	}
	return max(machine/16, min(machine/4, 256<<20))
}

// Limit sets the garbage collector's soft limit: the budget, half as much again for garbage, and 128 MiB for everything else. It
// does not count the program's own 60 MB.
func Limit(budget int64) { debug.SetMemoryLimit(budget + budget/2 + 128<<20) }

// fallback is assumed if the system does not say how much memory it has.
const fallback = 2 << 30

// machine returns how many bytes this process could have: the machine's memory, or the limit of the smallest cgroup that it is in.
// files reads a file of the system.
func machine(files func(name string) ([]byte, error)) int64 {
	least := int64(math.MaxInt64)
	take := func(name string) {
		text, err := files(name)
		if n, parse := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && parse == nil && n > 0 {
			least = min(least, n)
		}
	}
	text, _ := files("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" && f[2] == "kB" {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil && n > 0 {
				least = min(least, n<<10)
			}
		}
	}
	text, _ = files("/proc/self/cgroup") // HIERARCHY:CONTROLLERS:PATH; of version 2 the hierarchy is 0 (cgroups(7))
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) < 3 {
			continue
		}
		mount, name := "/sys/fs/cgroup", "memory.max"
		if f[0] != "0" {
			mount, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
			if !strings.Contains(","+f[1]+",", ",memory,") {
				continue
			}
		}
		for at := path.Clean("/" + f[2]); ; at = path.Dir(at) { // the limits of the groups around it count too
			take(path.Join(mount, at, name))
			if at == "/" {
				break
			}
		}
	}
	if least == math.MaxInt64 {
		return fallback
	}
	return least
}
