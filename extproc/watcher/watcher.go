// Package watcher tells when files say something else than before. Directories are watched rather than files, because most tools
// replace files instead of writing into them; what counts is the content, because something else often lies beside them and
// changes all the time: a log that this process writes, say, which a reload would make longer again.
package watcher

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Files must be quiet for settleTime before they are read: editors and configuration tools write in steps. Where it is never quiet
// around them they are read after settleMost.
const (
	settleTime = 100 * time.Millisecond
	settleMost = 3 * time.Second
)

// Options are what to watch, and whom to tell. All are required.
type Options struct {
	Files   func() []string  // and directories, for what is added to them; asked for again after each change
	Except  string           // a directory in which nothing is looked at
	Signal  <-chan os.Signal // is taken for a change
	Changed func()
	Log     *slog.Logger
	Alarm   func(kind, detail string)
}

// Run calls Changed whenever the files say something else than just before it was last called, until ctx is done.
func Run(ctx context.Context, o Options) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		o.Alarm("watch_failed", err.Error())
		w = &fsnotify.Watcher{}
	} else {
		defer func() {
			if err := w.Close(); err != nil {
				o.Log.Warn("stop watching files", "error", err)
			}
		}()
		o.watch(w)
	}
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	var first time.Time // of the events since the files were last looked at
	var read string     // what Changed last found; nothing at first, because files may have changed before they were watched
	changed := func(now string) {
		read = now
		o.Changed()
		o.watch(w)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.Signal:
			changed(o.fingerprint())
		case e := <-w.Events:
			if o.concerns(e.Name) {
				if first.IsZero() {
					first = time.Now()
				}
				if time.Since(first) < settleMost {
					settled.Reset(settleTime)
				}
			}
		case err := <-w.Errors:
			o.Alarm("watch_failed", err.Error())
			read = "" // events may be missing
			settled.Reset(settleTime)
		case <-settled.C:
			first = time.Time{}
			if now := o.fingerprint(); now != read {
				changed(now)
			}
		}
	}
}

// fingerprint is a digest of what the files say.
func (o *Options) fingerprint() string {
	h := sha256.New()
	for _, path := range o.Files() {
		text, err := os.ReadFile(path)
		fmt.Fprintf(h, "%q %v %d\n", path, err, len(text))
		h.Write(text)
	}
	return string(h.Sum(nil))
}

func (o *Options) watch(w *fsnotify.Watcher) {
	if w.Events == nil {
		return
	}
	for _, dir := range o.Files() {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			dir = filepath.Dir(dir)
		}
		if err := w.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			o.Log.Warn("cannot watch for changes; send SIGHUP after a change", "path", dir, "error", err)
		}
	}
}

func (o *Options) concerns(name string) bool {
	abs, err := filepath.Abs(name)
	if err != nil {
		return true
	}
	rel, err := filepath.Rel(o.Except, abs)
	return err != nil || rel != "." && !filepath.IsLocal(rel)
}
