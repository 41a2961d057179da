//go:build !linux

package datafile

// Look says which file is at path, and how long it is. It follows no link.
func Look(path string) (Seen, error) { return lookAtAll(path) }
