//go:build !linux

package custody

// mountedReadOnly cannot be told on this system, so no mount excuses anything.
func mountedReadOnly(string) bool { return false }
