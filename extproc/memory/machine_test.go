package memory

import (
	"os"
	"testing"
)

func TestMachineMemory(t *testing.T) {
	meminfo := "MemTotal:       16384000 kB\nMemFree:         1 kB\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"nothing is known", nil, fallback},
		{"no cgroup", map[string]string{"/proc/meminfo": meminfo}, 16384000 << 10},
		{"version 2, in a container", map[string]string{
			"/proc/meminfo": meminfo, "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "536870912\n",
		}, 512 << 20},
		{"version 2, bounded above", map[string]string{
			"/proc/meminfo": meminfo, "/proc/self/cgroup": "0::/a.slice/b.service\n",
			"/sys/fs/cgroup/a.slice/b.service/memory.max": "max\n", "/sys/fs/cgroup/a.slice/memory.max": "1073741824\n",
		}, 1 << 30},
		{"version 1", map[string]string{
			"/proc/meminfo": meminfo, "/proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n",
			"/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
		}, 256 << 20},
		{"nonsense", map[string]string{"/proc/meminfo": "MemTotal: many kB\n", "/proc/self/cgroup": "x\n0::/../..\n", "/sys/fs/cgroup/memory.max": "-1"}, fallback},
	} {
		got := machine(func(name string) ([]byte, error) {
			if text, ok := c.files[name]; ok {
				return []byte(text), nil
			}
			return nil, os.ErrNotExist
		})
		if got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.name, got, c.want)
		}
	}
	for _, c := range []struct{ configured, machine, want int64 }{
		{64 << 20, 32 << 30, 64 << 20}, {0, 32 << 30, 2 << 30}, {0, 2 << 30, 256 << 20}, {0, 512 << 20, 128 << 20},
	} {
		if got := budget(c.configured, c.machine); got != c.want {
			t.Errorf("limits.memory %d on a machine of %d: %d, want %d", c.configured, c.machine, got, c.want)
		}
	}
}
