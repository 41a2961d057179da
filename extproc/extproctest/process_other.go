//go:build unix && !linux

package extproctest

import "syscall"

// childAttributes puts a child in a process group of its own. Only Linux can be asked to kill it when its parent dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
