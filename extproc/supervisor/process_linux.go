package supervisor

import "syscall"

// ownProcess keeps the terminal's signals from Envoy, which is stopped last, and ends it however this process ends.
func ownProcess() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
