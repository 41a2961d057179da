//go:build !linux

package supervisor

import "syscall"

// ownProcess keeps the terminal's signals from Envoy, which is stopped last.
func ownProcess() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
