package http

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/keyfile"
)

// schemes are what a value of Authorization begins with, as a rule (IANA's registry, and what is not in it).
var schemes = []string{"apikey", "basic", "bearer", "digest", "dpop", "key", "negotiate", "token"}

// credentialFile is a header whose value is in a file. The file is read again when it has changed.
type credentialFile struct {
	header, path string

	mu    sync.Mutex
	read  os.FileInfo // of the file that value is from
	value string
}

// Field returns the header field. A file that is gone, empty or not a header's value is an error.
func (f *credentialFile) Field() (web.Field, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		return web.Field{}, err
	}
	if f.read == nil || !info.ModTime().Equal(f.read.ModTime()) || info.Size() != f.read.Size() || !os.SameFile(info, f.read) {
		value, err := keyfile.Secret(f.path)
		if err != nil {
			return web.Field{}, err
		}
		// Envoy answers a control character with an error of its own, after the operation has been allowed.
		control := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }
		if strings.ContainsFunc(value, control) {
			return web.Field{}, fmt.Errorf("%s does not hold one line with a header's value", f.path)
		}
		if scheme := strings.ToLower(strings.TrimSpace(value)); slices.Contains(schemes, scheme) {
			return web.Field{}, fmt.Errorf("%s holds the scheme %q, and no credential after it", f.path, scheme)
		}
		f.read, f.value = info, value
	}
	return web.Field{Name: f.header, Value: f.value}, nil
}

// newCredential is what a target wants to see, as it is configured.
func newCredential(c *config.Credential) extproc.Credential {
	return &credentialFile{header: strings.ToLower(c.Header), path: string(c.ValueFile)}
}
