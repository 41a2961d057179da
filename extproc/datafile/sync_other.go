//go:build !linux

package datafile

import "os"

// Sync makes durable what was written to f.
func Sync(f *os.File) error { return f.Sync() }
