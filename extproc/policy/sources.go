package policy

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Sources lists the files that [Load] would read at p now, each after the directories that lead there, so that somebody who watches
// p can tell a change of policy from one of something that lies beside it. What cannot be read is passed over: Load says what is wrong with it.
func Sources(p string) []string {
	info, err := os.Stat(p)
	if err != nil || !info.IsDir() {
		return []string{p}
	}
	return listSources(nil, p, ".", 0)
}

func listSources(list []string, root, dir string, depth int) []string {
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil || depth > maxDirDepth {
		return list
	}
	list = append(list, filepath.Join(root, dir))
	for _, entry := range entries {
		f := sourceFile{name: path.Join(dir, entry.Name())}
		hidden := strings.HasPrefix(entry.Name(), ".") && !isBundleFile(f.name)
		info, err := os.Stat(filepath.Join(root, f.name)) // of what a link leads to
		switch {
		case len(list) > maxFiles:
			return list
		case hidden || err != nil:
		case info.IsDir():
			list = listSources(list, root, f.name, depth+1)
		case f.isRego() || f.isData(false) || isBundleFile(f.name):
			list = append(list, filepath.Join(root, f.name))
		}
	}
	return list
}
