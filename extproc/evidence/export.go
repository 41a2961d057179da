package evidence

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/countersign/countersign/extproc/datafile"
)

// Export writes the public key, the checkpoints and the segments of a data directory as one archive (.tar.gz), which verifies on
// its own. It works beside a running gateway: the archive is the journal as it was at one moment. It follows no link in the data
// directory.
func Export(ctx context.Context, data string, to io.Writer) error {
	return export(ctx, data, to, func(string) {})
}

// export calls before with the name of each part, before it looks at that part. That is for tests.
func export(ctx context.Context, data string, to io.Writer, before func(part string)) error {
	z := gzip.NewWriter(to)
	e := &exporter{ctx: ctx, data: data, tar: tar.NewWriter(z)}
	dir := filepath.Join(data, "journal")
	for _, d := range []string{dir, filepath.Dir(PublicKeyFile(data))} {
		if err := datafile.CheckDirectory(d); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	before("key")
	if err := e.add(PublicKeyFile(data), 0); err != nil {
		return err
	}
	// The checkpoints come before the segments are listed, so that the segments have all that the checkpoints cover, whatever is
	// written meanwhile.
	before("checkpoints")
	if err := e.add(checkpointsFile(dir), 0); err != nil {
		return err
	}
	before("segments")
	list, err := listWritten(dir)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	for _, s := range list {
		before(filepath.Base(s.path))
		if s.size > 0 {
			err = e.add(s.path, s.size)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(e.tar.Close(), z.Close())
}

type exporter struct {
	ctx  context.Context //nolint:containedctx // of one call
	data string
	tar  *tar.Writer
}

// add adds the whole lines of a file's first size bytes, or of the whole file if size is 0.
func (e *exporter) add(path string, size int64) error {
	if err := e.copy(path, size); err != nil {
		return fmt.Errorf("export %s: %w", path, err)
	}
	return nil
}

func (e *exporter) copy(path string, size int64) error {
	f, err := datafile.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
		return fmt.Errorf("it has %d names (hard links), and can be a file of somewhere else; export a copy of the data directory", s.Nlink)
	}
	if size == 0 {
		size = info.Size()
	}
	if size, err = wholeLines(f, size); err != nil {
		return err
	}
	name, err := filepath.Rel(e.data, path)
	if err != nil {
		return err
	}
	if err := e.tar.WriteHeader(&tar.Header{Name: filepath.ToSlash(name), Mode: 0o600, Size: size, ModTime: info.ModTime()}); err != nil {
		return err
	}
	for at, part := int64(0), make([]byte, 1<<20); at < size; at += int64(len(part)) {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		part = part[:min(int64(len(part)), size-at)]
		if _, err := f.ReadAt(part, at); err != nil {
			return fmt.Errorf("it was cut while it was read: %w", err)
		}
		if _, err := e.tar.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// wholeLines returns how many of the first size bytes are whole lines. If the last line is longer than any record, it returns size:
// what is not a journal is exported as it is.
func wholeLines(f *os.File, size int64) (int64, error) {
	tail := make([]byte, min(size, maxLine))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(tail, '\n')
	if end < 0 && size > int64(len(tail)) {
		return size, nil
	}
	return size - int64(len(tail)-(end+1)), nil
}
