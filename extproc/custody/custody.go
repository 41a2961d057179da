// Package custody checks who can change the gateway's files. Only its own user and root may change what it believes (its
// configuration, policies, authorities) and what it keeps (keys, journal, socket). Anybody else who can change them could write
// policy, replace a target, or be the gateway. So the gateway does not start with such a file, and does not take it at a reload.
//
// A path is followed from the root. Each directory and link on the way must belong to us or to root. Others may write to a
// directory only if they cannot move what is not theirs (the sticky bit), or if it is mounted read-only. A group's permission
// counts only if somebody else is in the group: many systems give each user a group of their own, and make files that it may
// write.
//
// It trusts root, the kernel's owners and modes, and /etc/passwd and /etc/group. It does not see access control lists.
package custody

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/policy"
)

// inspection is one look at the files, for one user.
type inspection struct {
	uid    uint32
	alone  func(gid uint32) bool     // nobody else is in the group
	frozen func(path string) bool    // mounted read-only
	passed map[string]bool           // directories that were found good
	report func(key, message string) // takes a problem of the file that a configuration key names
}

func newInspection(report func(key, message string)) *inspection {
	uid := uint32(os.Geteuid())
	alone := func(gid uint32) bool { return uid != 0 && ownGroup(uid, gid) }
	return &inspection{uid: uid, alone: alone, frozen: mountedReadOnly, passed: map[string]bool{}, report: report}
}

// Check returns [config.Problems] for the files of c that somebody else can change, or nil.
func Check(c *config.Config) error {
	var problems config.Problems
	in := newInspection(func(key, message string) {
		if !slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Message == message }) {
			problems = append(problems, c.Problem(key, message))
		}
	})
	in.config(c)
	if len(problems) == 0 {
		return nil
	}
	return problems
}

func (in *inspection) config(c *config.Config) {
	in.kept("", c.File())
	if c.Data != "" {
		in.data(string(c.Data))
	}
	for _, socket := range []struct {
		key string
		at  config.Address
	}{{"listen.envoy", c.Listen.Envoy}, {"envoy.admin", c.Envoy.Admin}} {
		if path, ok := socket.at.Unix(); ok {
			in.directory(socket.key, filepath.Dir(path))
		}
	}
	for _, p := range c.Paths() {
		switch {
		case p.Key == "data", strings.HasPrefix(p.Key, "envoy.files"): // data is inspected above; envoy.files are only checked, and believed by nobody here
		case p.Key == "policies":
			for _, path := range policy.Sources(string(p.Path)) {
				in.directory(p.Key, path)
			}
		default:
			in.kept(p.Key, string(p.Path))
		}
	}
}

// data inspects the data directory and all that is in it.
func (in *inspection) data(dir string) {
	if !in.directory("data", dir) {
		return
	}
	if followed, err := filepath.EvalSymlinks(dir); err == nil {
		dir = followed
	}
	keys := filepath.Join(dir, "keys")
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil: // whoever reads the file reports this
		case d.IsDir():
			in.directory("data", path)
		default:
			info, well := in.kept("data", path)
			if well && info != nil && filepath.Dir(path) == keys && filepath.Ext(path) == ".key" && in.others(info)&0o4 != 0 {
				in.report("data", fmt.Sprintf("%s has mode %04o, so others can read this key: chmod 600 %s, or have new keys made in a new data directory where somebody may have read it", path, info.Mode().Perm(), path))
			}
		}
		return nil //nolint:nilerr // see above
	})
}

// directory inspects a directory that nobody else may add to. If it does not exist yet, it inspects the way to it.
func (in *inspection) directory(key, path string) (well bool) {
	if in.passed[path] {
		return true
	}
	info, well := in.kept(key, path)
	in.passed[path] = well && info != nil
	return well
}

// kept inspects a file or directory that nobody else may change. info is nil if it does not exist.
func (in *inspection) kept(key, path string) (info fs.FileInfo, well bool) {
	abs, err := filepath.Abs(path)
	if err == nil {
		info, err = in.follow(abs, 0)
	}
	if err == nil && info != nil && in.others(info)&0o2 != 0 && !in.frozen(abs) {
		what := "write to it"
		if info.IsDir() {
			what = "move, add and take away what is in it"
		}
		err = fmt.Errorf("%s has mode %04o, so others can %s: chmod go-w %s", abs, info.Mode().Perm(), what, abs)
	}
	if err != nil {
		in.report(key, err.Error())
	}
	return info, err == nil
}

// follow inspects every directory and link on the way to path and returns what is there; nil if nothing is.
func (in *inspection) follow(path string, links int) (fs.FileInfo, error) {
	at, rest := "/", strings.TrimPrefix(filepath.Clean(path), "/")
	if dir, file := filepath.Split(filepath.Clean(path)); in.passed[filepath.Clean(dir)] {
		at, rest = filepath.Clean(dir), file
	}
	parts := strings.Split(rest, "/")
	for i, part := range parts {
		dir := at
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil //nolint:nilnil // nothing is there
		}
		if err != nil {
			return nil, err
		}
		if owner := ownerOf(info); owner != in.uid && owner != 0 {
			return nil, fmt.Errorf("%s belongs to %s and not to %s, who runs this: chown it, or run as the one whose it is", at, userName(owner), userName(in.uid))
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(at)
			if err != nil {
				return nil, err
			}
			if links == 40 {
				return nil, fmt.Errorf("%s: more than 40 links", path)
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(dir, to)
			}
			return in.follow(filepath.Join(append([]string{to}, parts[i+1:]...)...), links+1)
		}
		if i == len(parts)-1 {
			return info, nil
		}
		if in.others(info)&0o2 != 0 && info.Mode()&fs.ModeSticky == 0 && !in.frozen(at) {
			return nil, fmt.Errorf("%s has mode %04o, so others can move what is below it: chmod go-w %s", at, info.Mode().Perm(), at)
		}
	}
	return nil, nil //nolint:nilnil // the root itself
}

// others returns the permissions of everybody else: 4 read, 2 write, 1 search.
func (in *inspection) others(info fs.FileInfo) fs.FileMode {
	mode := info.Mode().Perm()
	others := mode & 0o7
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || !in.alone(s.Gid) {
		others |= mode >> 3 & 0o7
	}
	return others
}

// Readable returns a warning for each secret file of c that others can read. It is not an error, because Kubernetes mounts
// secrets like that and nobody else is in the container.
func Readable(c *config.Config) (list []string) {
	in := newInspection(nil)
	for _, p := range c.Paths() {
		if !slices.ContainsFunc([]string{"key_file", "secret_file", "password_file", "value_file"}, func(s string) bool { return strings.HasSuffix(p.Key, s) }) {
			continue
		}
		if info, err := os.Stat(string(p.Path)); err == nil && in.others(info)&0o4 != 0 {
			list = append(list, fmt.Sprintf("%s: others on this machine can read %s (mode %04o): chmod go-r %s", p.Key, p.Path, info.Mode().Perm(), p.Path))
		}
	}
	return list
}

// Own returns an error if the data directory is another user's: the gateway could not read what this process writes there.
func Own(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner := ownerOf(info); owner != uint32(os.Geteuid()) {
		return fmt.Errorf("%s belongs to user %d: run this as that user, or its gateway could not read what this writes", dir, owner)
	}
	return nil
}

func ownerOf(info fs.FileInfo) uint32 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Uid
	}
	return ^uint32(0) // nobody's
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user " + id
}

// ownGroup reports whether /etc/passwd and /etc/group have nobody but uid and root in a group.
func ownGroup(uid, gid uint32) bool {
	own, group := strconv.FormatUint(uint64(uid), 10), strconv.FormatUint(uint64(gid), 10)
	var name string
	others := false
	eachEntry("/etc/passwd", func(f []string) {
		switch {
		case len(f) < 4 || f[2] == "0": // root may do everything anyway
		case f[2] == own:
			name = f[0]
		case f[3] == group:
			others = true
		}
	})
	eachEntry("/etc/group", func(f []string) {
		if len(f) > 3 && f[2] == group && f[3] != "" && f[3] != "root" && f[3] != name {
			others = true
		}
	})
	return !others
}

// eachEntry calls f with the fields of each line of a colon-separated file. A missing file, as in many containers, has no lines.
func eachEntry(file string, f func([]string)) {
	in, err := os.Open(file)
	if err != nil {
		return
	}
	defer in.Close()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		f(strings.Split(lines.Text(), ":"))
	}
}
