//go:build !linux

package main

import "syscall"

// envoyProcess keeps the terminal's signals from Envoy: it is stopped last.
func envoyProcess() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
