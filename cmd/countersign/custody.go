package main

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

// custody judges in whose hands files are. What the gateway believes (its configuration, policies, authorities) and what it
// keeps (keys, journal, socket) only its own user and root may change: whoever else can is an author of policy, a target's
// owner, or the gateway itself.
//
// A path is followed from the root on. Each directory on the way must belong to us or to root, and others may write to it only
// where they cannot move what is not theirs (the sticky bit), or where it is mounted read-only; a link is whoever's it
// belongs to. Write permission of a group counts where somebody else is in the group: systems that give each user a group of
// their own make files that this group may write.
type custody struct {
	uid    uint32
	alone  func(gid uint32) bool     // nobody else is in the group
	frozen func(path string) bool    // mounted read-only
	passed map[string]bool           // directories that were found well
	add    func(key, message string) // a problem
}

func newCustody(add func(key, message string)) *custody {
	uid := uint32(os.Geteuid())
	return &custody{uid: uid, alone: func(gid uint32) bool { return uid != 0 && ownGroup(uid, gid) }, frozen: mountedReadOnly, passed: map[string]bool{}, add: add}
}

// inHand returns what of c's files is in other hands, as [config.Problems].
func inHand(c *config.Config) error {
	var problems config.Problems
	k := newCustody(func(key, message string) {
		if !slices.ContainsFunc(problems, func(p config.Problem) bool { return p.Message == message }) {
			problems = append(problems, c.Problem(key, message))
		}
	})
	k.config(c)
	if len(problems) == 0 {
		return nil
	}
	return problems
}

func (k *custody) config(c *config.Config) {
	k.kept("", c.File())
	if c.Data != "" {
		k.data(string(c.Data))
	}
	for _, socket := range []struct {
		key string
		at  config.Address
	}{{"listen.envoy", c.Listen.Envoy}, {"envoy.admin", c.Envoy.Admin}} {
		if path, ok := socket.at.Unix(); ok {
			k.directory(socket.key, filepath.Dir(path))
		}
	}
	for _, p := range c.Paths() {
		switch {
		case p.Key == "data", strings.HasPrefix(p.Key, "envoy.files"): // above; only held against rules here
		case p.Key == "policies":
			k.directory(p.Key, string(p.Path))
			for _, file := range policy.Sources(string(p.Path)) {
				k.directory(p.Key, filepath.Dir(file))
				k.kept(p.Key, file)
			}
		default:
			k.kept(p.Key, string(p.Path))
		}
	}
}

// data is the data directory and all that is in it.
func (k *custody) data(dir string) {
	if !k.directory("data", dir) {
		return
	}
	if followed, err := filepath.EvalSymlinks(dir); err == nil {
		dir = followed
	}
	keys := filepath.Join(dir, "keys")
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil: // what cannot be read is told where it is used
		case d.IsDir():
			k.directory("data", path)
		default:
			info, well := k.kept("data", path)
			if well && info != nil && filepath.Dir(path) == keys && filepath.Ext(path) == ".key" && k.others(info)&0o4 != 0 {
				k.add("data", fmt.Sprintf("%s has mode %04o, so others can read this key: chmod 600 %s, or have new keys made in a new data directory where somebody may have read it", path, info.Mode().Perm(), path))
			}
		}
		return nil //nolint:nilerr // see above
	})
}

// directory is one that nobody else may add to. Where there is none yet, it is where it will be that counts.
func (k *custody) directory(key, path string) (well bool) {
	if k.passed[path] {
		return true
	}
	info, well := k.kept(key, path)
	k.passed[path] = well && info != nil
	return well
}

// kept is a file or directory that nobody else may change: nil where there is none.
func (k *custody) kept(key, path string) (info fs.FileInfo, well bool) {
	abs, err := filepath.Abs(path)
	if err == nil {
		info, err = k.follow(abs, 0)
	}
	if err == nil && info != nil && k.others(info)&0o2 != 0 && !k.frozen(abs) {
		what := "write to it"
		if info.IsDir() {
			what = "move, add and take away what is in it"
		}
		err = fmt.Errorf("%s has mode %04o, so others can %s: chmod go-w %s", abs, info.Mode().Perm(), what, abs)
	}
	if err != nil {
		k.add(key, err.Error())
	}
	return info, err == nil
}

// follow returns what path is in the end, having looked at every directory and link on the way. It is nil where there is
// nothing.
func (k *custody) follow(path string, links int) (fs.FileInfo, error) {
	at, rest := "/", strings.TrimPrefix(filepath.Clean(path), "/")
	if dir, file := filepath.Split(filepath.Clean(path)); k.passed[filepath.Clean(dir)] {
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
		if owner := ownerOf(info); owner != k.uid && owner != 0 {
			return nil, fmt.Errorf("%s belongs to %s and not to %s, who runs this: chown it, or run as the one whose it is", at, userName(owner), userName(k.uid))
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
			return k.follow(filepath.Join(append([]string{to}, parts[i+1:]...)...), links+1)
		}
		if i == len(parts)-1 {
			return info, nil
		}
		if k.others(info)&0o2 != 0 && info.Mode()&fs.ModeSticky == 0 && !k.frozen(at) {
			return nil, fmt.Errorf("%s has mode %04o, so others can move what is below it: chmod go-w %s", at, info.Mode().Perm(), at)
		}
	}
	return nil, nil //nolint:nilnil // the root itself
}

// others are the permissions that somebody else has: 4 read, 2 write, 1 search.
func (k *custody) others(info fs.FileInfo) fs.FileMode {
	mode := info.Mode().Perm()
	others := mode & 0o7
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || !k.alone(s.Gid) {
		others |= mode >> 3 & 0o7
	}
	return others
}

// shownSecrets are the secret files of c that others can read, as sentences. That is how Kubernetes mounts them, and nobody
// else is in a container; elsewhere it gives them away.
func shownSecrets(c *config.Config) (list []string) {
	k := newCustody(nil)
	for _, p := range c.Paths() {
		if !slices.ContainsFunc([]string{"key_file", "secret_file", "password_file", "value_file"}, func(s string) bool { return strings.HasSuffix(p.Key, s) }) {
			continue
		}
		if info, err := os.Stat(string(p.Path)); err == nil && k.others(info)&0o4 != 0 {
			list = append(list, fmt.Sprintf("%s: others on this machine can read %s (mode %04o): chmod go-r %s", p.Key, p.Path, info.Mode().Perm(), p.Path))
		}
	}
	return list
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

// ownGroup reports whether nobody but uid is in a group, by the system's files.
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

// eachEntry reads a file of colon-separated fields. One that is not there has no entries: a container often has none.
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
