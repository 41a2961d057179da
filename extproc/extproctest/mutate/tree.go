package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// copyTree makes tree a copy of the repository at root as it is now: all files that git does not ignore. It does not touch a file that
// is the same already, and links to the parts that tests need.
func copyTree(ctx context.Context, root, tree string) error {
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list the repository's files: %w", err)
	}
	files := strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	if err := prune(tree, files); err != nil {
		return err
	}
	for _, name := range files {
		if err := copyFile(filepath.Join(root, name), filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	parts, err := filepath.Glob(filepath.Join(root, ".tools", "*"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tree, ".tools"), 0o755); err != nil {
		return err
	}
	for _, part := range parts {
		if info, err := os.Stat(part); err != nil || !info.Mode().IsRegular() || slices.Contains(notShared, filepath.Base(part)) {
			continue
		}
		link := filepath.Join(tree, ".tools", filepath.Base(part))
		if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
			return err
		}
		if err := os.Symlink(part, link); err != nil {
			return err
		}
	}
	return nil
}

// notShared are files of .tools that the tests of each tree make for themselves.
var notShared = []string{"countersign-test", "countersign-shipped", "lock"}

// prune removes what is in tree and not among files.
func prune(tree string, files []string) error {
	kept := map[string]bool{}
	for _, name := range files {
		kept[name] = true
	}
	return filepath.WalkDir(tree, func(path string, e os.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case e.IsDir() && e.Name() == ".tools":
			return filepath.SkipDir
		case e.IsDir():
			return nil
		}
		name, err := filepath.Rel(tree, path)
		if err == nil && !kept[filepath.ToSlash(name)] {
			err = os.Remove(path)
		}
		return err
	})
}

func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if os.IsNotExist(err) {
		return nil // removed, and not yet committed
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, info.Mode().Perm())
}
