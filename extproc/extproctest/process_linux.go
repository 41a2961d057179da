package extproctest

import "syscall"

// childAttributes puts a child in a process group of its own and has the kernel kill it when the thread that forked dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
