package supervisor

import "syscall"

// ownProcess ends Envoy with us, however we end, and keeps the terminal's signals from it: it is stopped last.
func ownProcess() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
