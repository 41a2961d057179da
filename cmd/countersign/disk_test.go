package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/config"
	"github.com/countersign/countersign/extproc/datafile"
	"github.com/countersign/countersign/extproc/evidence"
	"github.com/countersign/countersign/extproc/extproctest"
	"github.com/countersign/countersign/extproc/extproctest/story"
	"github.com/countersign/countersign/extproc/lane"
	"github.com/countersign/countersign/extproc/listener"
	"github.com/countersign/countersign/xds"
)

// brokenDisk is the real disk, until a step of what is written to the journal is made to fail.
type brokenDisk struct {
	datafile.Disk
	fault atomic.Pointer[diskFault]
}

type diskFault struct {
	write, sync error
	stores      bool // what fails to be written is in the file all the same
}

func (d *brokenDisk) OpenFile(name string, flag int, perm fs.FileMode) (datafile.File, error) {
	f, err := d.Disk.OpenFile(name, flag, perm)
	if err != nil || !strings.HasSuffix(name, ".jsonl") {
		return f, err
	}
	return &brokenFile{f, d}, nil
}

type brokenFile struct {
	datafile.File
	disk *brokenDisk
}

func (f *brokenFile) WriteAt(p []byte, offset int64) (int, error) {
	fault := f.disk.fault.Load()
	if fault == nil || fault.write == nil {
		return f.File.WriteAt(p, offset)
	}
	if fault.stores {
		if _, err := f.File.WriteAt(p, offset); err != nil {
			return 0, err
		}
	}
	return 0, fault.write
}

func (f *brokenFile) Sync() error {
	if fault := f.disk.fault.Load(); fault != nil && fault.sync != nil {
		return fault.sync
	}
	return f.File.Sync()
}

// TestDiskFails makes the steps of the journal's write fail under a gateway with a real Envoy. The agent is told that the
// gateway is unavailable, and the target gets not a byte, whether the record was stored or not. What can be undone is
// undone, and access comes back; what cannot be known ends access for good, and a start finds the journal in order.
func TestDiskFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("input/output error")
	g := start(t, readAll, story.Options{})
	for _, c := range []struct {
		name  string
		fault diskFault
		final bool
	}{
		{"a write fails", diskFault{write: broken}, false},
		{"a write fails and has stored the record", diskFault{write: broken, stores: true}, false},
		{"a sync fails", diskFault{sync: broken}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.Process.Stop()
			disk := &brokenDisk{}
			stop := serveOn(t, g, serving{disk: disk})
			if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
				t.Fatalf("while the disk works: %d\n%s", a.Status, a.Body)
			}
			g.Target.Reset()
			disk.fault.Store(&c.fault)
			for _, method := range []string{"GET", "DELETE"} {
				for range 3 {
					if a := ask(t, g, method, "/v1/payments/7"); a.Status != 503 || a.Problem() != "unavailable" {
						t.Errorf("%s while the disk fails: %d %s", method, a.Status, a.Body)
					}
				}
			}
			if n := g.Target.BytesIn(); n != 0 {
				t.Errorf("the target got %d bytes", n)
			}
			disk.fault.Store(nil)
			if c.final {
				if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 503 {
					t.Errorf("after a sync that failed: %d", a.Status)
				}
			} else {
				extproctest.Await(t, "access, when the disk works again", 10*time.Second, func(context.Context) error {
					if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
						return fmt.Errorf("status %d", a.Status)
					}
					return nil
				})
			}
			if err := stop(); (err != nil) != c.final {
				t.Errorf("the journal was closed: %v", err)
			}
			g.Run()
			if a := ask(t, g, "GET", "/v1/payments/7"); a.Status != 200 {
				t.Errorf("after a start: %d", a.Status)
			}
			reconcile(t, g)
		})
	}
}

// serving is what a test puts into a gateway that it serves itself.
type serving struct {
	disk     datafile.FS
	observer lane.Observer
	state    func(*lane.State)
	options  []grpc.ServerOption
}

// serveOn serves g's configuration in this process, with a journal on disk, behind an Envoy of its own.
func serveOn(t *testing.T, g *story.Gateway, with serving) (stop func() error) {
	t.Helper()
	c, err := config.Load(g.Config, configKinds()...)
	must(t, err)
	log, alarm := slog.New(slog.DiscardHandler), func(string, string) {}
	journal, err := evidence.Open(t.Context(), evidence.Options{
		Dir: filepath.Join(string(c.Data), "journal"), Node: c.Node, FS: with.disk, Log: log, RetryEvery: 10 * time.Millisecond,
	})
	must(t, err)
	a, err := (&builder{log: log, journal: journal, alarm: alarm}).build(t.Context(), c, nil)
	must(t, err)
	a.verifier.Start(t.Context())
	must(t, journal.Started(t.Context(), nil))
	if with.state != nil {
		with.state(a.state)
	}
	life := lane.New(lane.Options{Log: log, Now: time.Now, Alarm: alarm, Observer: with.observer})
	server := extproc.New(life)
	envoys := xds.NewServer(xds.Options{Log: log, Alarm: alarm})
	must(t, envoys.Update(t.Context(), c, envoyKinds()...))
	must(t, life.Swap(a.state, nil))
	options, err := listener.GRPC(c, server)
	must(t, err)
	service := grpc.NewServer(append(options, with.options...)...)
	server.Register(service)
	envoys.Register(service)
	l, err := listener.Listen(t.Context(), c.Listen.Envoy)
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- service.Serve(l) }()
	bootstrap, err := xds.Bootstrap(c)
	must(t, err)
	envoy := extproctest.StartEnvoy(t, extproctest.EnvoyConfig{Bootstrap: string(bootstrap)})
	return func() error {
		envoy.Stop()
		must(t, life.Drain(t.Context()))
		envoys.Close()
		service.Stop()
		must(t, <-served)
		a.verifier.Close()
		return journal.Close()
	}
}
