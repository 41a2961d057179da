package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/custody"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/xds"
)

// settleTime is how long files must be quiet before they are read: editors and configuration tools write in steps.
const settleTime = 100 * time.Millisecond

// watch reloads on SIGHUP and when the configuration or a policy changes, until ctx is done.
func (g *gateway) watch(ctx context.Context, hangup <-chan os.Signal) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		g.alarm("watch_failed", err.Error())
		w = &fsnotify.Watcher{}
	} else {
		defer func() {
			if err := w.Close(); err != nil {
				g.log.Warn("stop watching files", "error", err)
			}
		}()
		g.watchFiles(w)
	}
	settled := time.NewTimer(time.Hour)
	settled.Stop()
	var read string // what the last reload found
	reload := func() {
		read = g.fingerprint()
		g.reload(ctx)
		g.watchFiles(w)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			reload()
		case e := <-w.Events:
			if g.concerns(e.Name) {
				settled.Reset(settleTime)
			}
		case err := <-w.Errors:
			g.alarm("watch_failed", err.Error())
			read = "" // events may be missing
			settled.Reset(settleTime)
		case <-settled.C:
			if g.fingerprint() != read {
				reload()
			}
		}
	}
}

// fingerprint is a digest of the files that a reload reads, by which it is told whether any of them changed. Something else
// often lies beside them and changes all the time: a log that this process writes, say, which a reload would make longer
// again.
func (g *gateway) fingerprint() string {
	a := g.current()
	h := sha256.New()
	note := func(path string) {
		text, err := os.ReadFile(path)
		fmt.Fprintf(h, "%q %v %d\n", path, err, len(text))
		h.Write(text)
	}
	note(g.path)
	for _, f := range xds.Files(a.config) {
		note(string(f))
	}
	for _, f := range policy.Sources(string(a.config.Policies)) {
		note(f)
	}
	return string(h.Sum(nil))
}

// watchFiles watches the directories of everything that a reload reads. A directory is watched rather than a file,
// because most tools replace files instead of writing into them.
func (g *gateway) watchFiles(w *fsnotify.Watcher) {
	if w.Events == nil {
		return
	}
	a := g.current()
	dirs := map[string]bool{filepath.Dir(g.path): true, string(a.config.Policies): true}
	for _, f := range a.policies.Files() {
		dirs[filepath.Dir(f)] = true
	}
	for _, f := range xds.Files(a.config) {
		dirs[filepath.Dir(string(f))] = true
	}
	for dir := range dirs {
		if err := w.Add(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			g.log.Warn("cannot watch for changes; send SIGHUP after a change", "path", dir, "error", err)
		}
	}
}

// concerns reports whether a changed file can change what is active: the data directory often lies beside the
// configuration, and its files change all the time.
func (g *gateway) concerns(name string) bool {
	a := g.current()
	abs, err := filepath.Abs(name)
	if err != nil {
		return true
	}
	rel, err := filepath.Rel(string(a.config.Data), abs)
	return err != nil || rel != "." && !filepath.IsLocal(rel)
}

// reload builds a whole new state and swaps it in. Where anything of it is bad the old state stays.
func (g *gateway) reload(ctx context.Context) {
	defer guard.Catch("a reload", func(p guard.Panic) { g.reject(ctx, errors.New("the reload panicked: "+p.Value)) })
	previous := g.current()
	next, err := g.next(ctx, previous)
	if err == nil && unchanged(previous, next) {
		g.setRejected("")
		return
	}
	if err == nil {
		err = g.activate(ctx, next)
	}
	if err != nil {
		g.reject(ctx, err)
		return
	}
	g.setRejected("")
	g.metrics.Reload(true)
	g.warn(next.config)
	g.log.Info("reloaded", "config_digest", next.config.Digest(), "policy_digest", next.policies.Digest())
}

func (g *gateway) next(ctx context.Context, previous *active) (*active, error) {
	c, err := config.Load(g.path, configKinds()...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(fixed(previous.config, c), custody.Check(c)); err != nil {
		return nil, err
	}
	return g.builder.build(ctx, c, previous)
}

func unchanged(previous, next *active) bool {
	return previous.config.Digest() == next.config.Digest() && previous.policies.SourceDigest() == next.policies.SourceDigest() &&
		slices.Equal(previous.policies.Files(), next.policies.Files()) && // there may be a directory to watch
		len(xds.Files(next.config)) == 0 && previous.verifier == next.verifier
}

// fixed refuses changes that only a restart can make.
func fixed(was, is *config.Config) error {
	for _, k := range []struct {
		key     string
		was, is any
	}{
		{"node", was.Node, is.Node},
		{"data", was.Data, is.Data},
		{"listen", was.Listen, is.Listen},
		{"evidence", was.Evidence, is.Evidence},
		{"people", was.People, is.People},
		{"approvals.store", was.Approvals.Store, is.Approvals.Store},
		{"approvals.redis", was.Approvals.Redis, is.Approvals.Redis},
		{"approvals.console_url", was.Approvals.ConsoleURL, is.Approvals.ConsoleURL},
		{"approvals.ttl", was.Approvals.TTL, is.Approvals.TTL},
		{"approvals.limits", was.Approvals.Limits, is.Approvals.Limits},
		{"approvals.webhook", was.Approvals.Webhook, is.Approvals.Webhook},
		{"envoy.path", was.Envoy.Path, is.Envoy.Path},
		{"envoy.admin", was.Envoy.Admin, is.Envoy.Admin},
	} {
		if !reflect.DeepEqual(k.was, k.is) {
			return fmt.Errorf("%s: %s has changed, and takes a restart to change", is.File(), k.key)
		}
	}
	return nil
}

// reject records that a new configuration was not taken.
func (g *gateway) reject(ctx context.Context, err error) {
	problems := problemsOf(err)
	g.metrics.Reload(false)
	for _, p := range problems {
		g.log.Error("a new configuration was rejected, and the old one stays active", "problem", p)
	}
	a := g.current()
	digest := ""
	if text, readErr := os.ReadFile(g.path); readErr == nil {
		if c, _ := config.Parse(g.path, text, configKinds()...); c != nil {
			digest = c.Digest()
		}
	}
	body := gate.Object{
		{Name: "active", Value: a.config.Digest()},
		{Name: "active_policy", Value: a.policies.Digest()},
		{Name: "digest", Value: digest},
		{Name: "file", Value: a.config.File()},
		{Name: "problems", Value: problems},
	}
	if err := g.record(ctx, gate.ConfigRejected, body); err != nil {
		g.log.Error("a rejected configuration could not be recorded", "error", err)
	}
	g.setRejected(problems[0])
	g.alarm("config_rejected", problems[0])
}

// setRejected notes why what is on disk is not active, for whoever asks whether the gateway is ready.
func (g *gateway) setRejected(why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rejected = why
}
