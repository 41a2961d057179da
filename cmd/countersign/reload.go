package main

import (
	"context"
	"errors"
	"os"

	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/custody"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/policy"
	"github.com/countersign/countersign/extproc/watcher"
	"github.com/countersign/countersign/xds"
)

// watch reloads on SIGHUP and when what a reload reads has changed, until ctx is done.
func (g *gateway) watch(ctx context.Context, c *config.Config, hangup <-chan os.Signal) {
	watcher.Run(ctx, watcher.Options{
		Files: g.files, Except: string(c.Data), Signal: hangup, Changed: func() { g.reload(ctx) }, Log: g.log, Alarm: g.alarm,
	})
}

// files are what a reload reads.
func (g *gateway) files() []string {
	c := g.current().config
	files := append(policy.Sources(string(c.Policies)), g.path)
	for _, f := range xds.Files(c) {
		files = append(files, string(f))
	}
	return files
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
	if err := errors.Join(c.Fixed(previous.config), custody.Check(c)); err != nil {
		return nil, err
	}
	return g.builder.build(ctx, c, previous)
}

func unchanged(previous, next *active) bool {
	return previous.config.Digest() == next.config.Digest() && previous.policies.SourceDigest() == next.policies.SourceDigest() &&
		len(xds.Files(next.config)) == 0 && previous.verifier == next.verifier
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
