//go:build !linux

package evidence

import "os"

type diskFile struct{ *os.File }
