package main

import (
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/config"
)

// judgedMemory is limits.memory: what is configured, or a share of the machine.
func judgedMemory(c *config.Config, machine int64) int64 {
	if c.Limits.Memory > 0 {
		return int64(c.Limits.Memory)
	}
	return max(machine/16, min(machine/4, 256<<20))
}

// limitMemory has the garbage collector keep all that the program takes near what is judged: half as much again for garbage,
// and 128 MiB for everything else; the program itself, which is not counted, is 60 MB. An operator's own GOMEMLIMIT stands.
func limitMemory(judged int64, e env) {
	if e.get("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(judged + judged/2 + 128<<20)
	}
}

// fallbackMemory is what a machine is taken to have that does not say.
const fallbackMemory = 2 << 30

// machineMemory is how many bytes of memory this process could have: those of the machine, or of the smallest cgroup that it is
// in. files reads a file of the system.
func machineMemory(files func(name string) ([]byte, error)) int64 {
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
		for at := path.Clean("/" + f[2]); ; at = path.Dir(at) { // a group has no more than those that it is in
			take(path.Join(mount, at, name))
			if at == "/" {
				break
			}
		}
	}
	if least == math.MaxInt64 {
		return fallbackMemory
	}
	return least
}

// thisMachine is the memory of the machine that this process runs on.
func thisMachine() int64 { return machineMemory(os.ReadFile) }
