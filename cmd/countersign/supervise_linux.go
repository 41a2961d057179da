package main

import "syscall"

// envoyProcess ends Envoy with us, however we end, and keeps the terminal's signals from it: it is stopped last.
func envoyProcess() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
