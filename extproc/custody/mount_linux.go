package custody

import "syscall"

// mountedReadOnly reports whether path is on a file system that is mounted read-only here, as Kubernetes mounts a ConfigMap.
func mountedReadOnly(path string) bool {
	const readOnlyMount = 1 // ST_RDONLY (statfs(2))
	var s syscall.Statfs_t
	return syscall.Statfs(path, &s) == nil && s.Flags&readOnlyMount != 0
}
