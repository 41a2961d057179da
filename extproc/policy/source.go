package policy

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// What a set of policies may weigh. A bundle is an archive that somebody else made, and a directory can be mounted from
// anywhere: reading either must end.
const (
	maxFileBytes  = 16 << 20
	maxTotalBytes = 128 << 20
	maxFiles      = 50_000
	maxDirDepth   = 32
)

// source is a directory or a bundle, read once: what is compiled and digested is the same bytes.
type source struct {
	files  []sourceFile // by name
	bundle bool
}

type sourceFile struct {
	name string // relative to the root, with slashes: what the digest and the place in data go by
	path string // what a person would open, for messages
	text []byte
}

func (f *sourceFile) isRego() bool { return strings.HasSuffix(f.name, ".rego") }
func (f *sourceFile) isTest() bool { return strings.HasSuffix(f.name, "_test.rego") }

// isData reports whether f becomes part of data. A bundle has data in files called data only. A schema is about data and
// is none.
func (f *sourceFile) isData(bundle bool) bool {
	base := path.Base(f.name)
	switch ext := path.Ext(base); {
	case ext != ".json" && ext != ".yaml" && ext != ".yml", strings.HasSuffix(base, ".schema.json"):
		return false
	default:
		return !bundle || strings.TrimSuffix(base, ext) == "data"
	}
}

// readSource reads the directory, unpacked bundle or bundle archive at p.
func readSource(p string) (*source, error) {
	info, err := os.Stat(p)
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	var s *source
	if info.IsDir() {
		s, err = readDirectory(p)
	} else {
		s, err = readArchive(p)
	}
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	slices.SortFunc(s.files, func(a, b sourceFile) int { return strings.Compare(a.name, b.name) })
	return s, nil
}

// digest is the SHA-256, in hex, over every name and content, each with its length before it.
func (s *source) digest() string {
	h := sha256.New()
	var n [8]byte
	for _, f := range s.files {
		for _, part := range [][]byte{[]byte(f.name), f.text} {
			binary.BigEndian.PutUint64(n[:], uint64(len(part)))
			h.Write(n[:])
			h.Write(part)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// add takes f in, within the bounds.
func (s *source) add(total *int, f sourceFile) error {
	*total += len(f.text)
	switch {
	case len(f.text) > maxFileBytes:
		return fmt.Errorf("%s is larger than %d MiB", f.path, maxFileBytes>>20)
	case *total > maxTotalBytes:
		return fmt.Errorf("%s: the policies are larger than %d MiB together", f.path, maxTotalBytes>>20)
	case len(s.files) == maxFiles:
		return fmt.Errorf("%s: there are more than %d policy files", f.path, maxFiles)
	}
	s.files = append(s.files, f)
	return nil
}

// directory walks a directory through an os.Root, so that no link can lead out of it. Links inside it are followed: a
// Kubernetes ConfigMap is made of them. Names that begin with a dot are passed over (editors' files, the ConfigMap's own
// ..data), but for a bundle's.
type directory struct {
	root  *os.Root
	path  string
	total int
	into  *source
}

func readDirectory(p string) (*source, error) {
	root, err := os.OpenRoot(p)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // it was only read from
	d := &directory{root: root, path: p, into: &source{}}
	switch _, err := root.Stat(".manifest"); {
	case err == nil:
		d.into.bundle = true
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if err := d.walk(".", 0); err != nil {
		return nil, err
	}
	return d.into, nil
}

func (d *directory) walk(name string, depth int) error {
	shown := filepath.Join(d.path, name)
	if depth > maxDirDepth {
		return fmt.Errorf("%s is more than %d directories deep", shown, maxDirDepth)
	}
	entries, err := fs.ReadDir(d.root.FS(), name)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		inside := path.Join(name, entry.Name())
		if strings.HasPrefix(entry.Name(), ".") && (name != "." || !isBundleFile(inside)) {
			continue
		}
		info, err := d.root.Stat(inside)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", filepath.Join(d.path, inside), err)
		case info.IsDir():
			err = d.walk(inside, depth+1)
		default:
			err = d.read(inside, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *directory) read(name string, info fs.FileInfo) error {
	f := sourceFile{name: name, path: filepath.Join(d.path, name)}
	if !f.isRego() && !f.isData(d.into.bundle) && !isBundleFile(name) {
		return nil
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.path)
	}
	file, err := d.root.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	defer file.Close()
	if f.text, err = io.ReadAll(io.LimitReader(file, maxFileBytes+1)); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	return d.into.add(&d.total, f)
}

// readArchive reads a bundle as `opa build` makes it: a tar file compressed with gzip.
func readArchive(p string) (*source, error) {
	file, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	packed, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("%s is neither a directory nor a bundle (.tar.gz): %w", p, err)
	}
	s := &source{bundle: true}
	seen := map[string]bool{}
	total := 0
	// The bound is on what comes out of gzip, headers included: entries without content cost time too.
	archive := tar.NewReader(io.LimitReader(packed, 2*maxTotalBytes))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		switch {
		case header.Typeflag == tar.TypeDir:
			continue
		case header.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("%s: %s is a link or a special file", p, header.Name)
		case seen[name]:
			return nil, fmt.Errorf("%s: %s is in it twice", p, name)
		}
		seen[name] = true
		text, err := io.ReadAll(io.LimitReader(archive, maxFileBytes+1))
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", p, name, err)
		}
		if err := s.add(&total, sourceFile{name: name, path: p + ":" + name, text: text}); err != nil {
			return nil, err
		}
	}
}

// The files of a bundle that are neither Rego nor data.
const (
	manifestFile   = ".manifest"
	signaturesFile = ".signatures.json"
	patchFile      = "patch.json"
)

func isBundleFile(name string) bool {
	return name == manifestFile || name == signaturesFile || name == patchFile || path.Ext(name) == ".wasm"
}

// checkBundle reports what of a bundle we would not honour, and gives its roots. To pass over a signature, a WebAssembly
// rule or a patch in silence would enforce something else than what was signed, compiled or patched.
func (s *source) checkBundle(problems *Problems) (roots []string) {
	for i := range s.files {
		f := &s.files[i]
		switch {
		case f.name == manifestFile:
			roots = readManifest(f, problems)
		case f.name == signaturesFile:
			problems.add(f.path, 0, 0, "the bundle is signed, and there is no key to verify it with: verify it before, and leave the signature out")
		case f.name == patchFile && s.bundle:
			problems.add(f.path, 0, 0, "delta bundles cannot be served; build a whole bundle")
		case path.Ext(f.name) == ".wasm":
			problems.add(f.path, 0, 0, "rules compiled to WebAssembly are not evaluated; build the bundle with --target rego")
		}
	}
	return roots
}

func readManifest(f *sourceFile, problems *Problems) (roots []string) {
	v, line, err := parseJSON(f.text)
	object, ok := v.(map[string]any)
	if err != nil || !ok {
		problems.add(f.path, line, 1, "the manifest is not a JSON object: %v", err)
		return nil
	}
	list, _ := object["roots"].([]any)
	for _, r := range list {
		if root, ok := r.(string); ok {
			roots = append(roots, strings.Trim(root, "/"))
		}
	}
	if v, ok := object["rego_version"]; ok && fmt.Sprint(v) != "1" {
		problems.add(f.path, 0, 0, "the bundle is Rego version %v; only version 1 is read", v)
	}
	versions, _ := object["file_rego_versions"].(map[string]any)
	for name, v := range versions {
		if fmt.Sprint(v) != "1" {
			problems.add(f.path, 0, 0, "%s is Rego version %v; only version 1 is read", name, v)
		}
	}
	if wasm, ok := object["wasm"].([]any); ok && len(wasm) > 0 {
		problems.add(f.path, 0, 0, "rules compiled to WebAssembly are not evaluated; build the bundle with --target rego")
	}
	return roots
}

// underRoots reports whether what stands at the given place in data belongs to a bundle with these roots. A bundle that
// names no root has them all.
func underRoots(place, roots []string) bool {
	return len(roots) == 0 || slices.ContainsFunc(roots, func(root string) bool {
		return root == "" || root == strings.Join(place, "/") || strings.HasPrefix(strings.Join(place, "/"), root+"/")
	})
}
