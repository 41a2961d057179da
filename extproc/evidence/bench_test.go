package evidence

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/gate"
)

// BenchmarkAppend is what a record costs, written over what was prepared and appended.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		for _, prepare := range []int64{0, -1} {
			how := map[int64]string{0: "in place", -1: "appended"}[prepare]
			b.Run(fmt.Sprintf("writers=%d/%s", writers, how), func(b *testing.B) { benchmarkAppend(b, writers, prepare) })
		}
	}
}

func benchmarkAppend(b *testing.B, writers int, prepare int64) {
	f := newFixture(b)
	f.opts.Now, f.opts.Prepare = nil, prepare
	disk := &faultyDisk{}
	var syncs atomic.Int64
	disk.on("write", func(c call) error {
		if c.data[0] != 0 && filepath.Ext(c.name) == segmentSuffix { // not the preparer's
			syncs.Add(1)
		}
		return nil
	})
	f.opts.FS = disk
	j := f.open()
	mustAppend(b, j, event(1))
	prepared(j)
	appended := j.Appended()
	syncs.Store(0)
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, writers)
	for i := range took {
		took[i] = make([]time.Duration, 0, b.N)
	}
	cpu := processorTime()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			r := decided("0192f0c1-7a5e-7000-8000-000000000000", gate.Allow)
			for left.Add(-1) >= 0 {
				began := time.Now()
				if _, err := j.Append(context.Background(), r); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	cpu = processorTime() - cpu
	f.crash(j)
	n := float64(syncs.Load())
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(b.N)/n, "records/sync")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(cpu.Microseconds())/n, "cpu-µs/sync")
	b.ReportMetric(100*float64(j.Appended()-appended)/n, "%appended")
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkEncode(b *testing.B) {
	r := decided("0192f0c1-7a5e-7000-8000-000000000000", gate.Allow)
	b.ReportAllocs()
	for b.Loop() {
		e, err := encode("gw-1", r)
		if err != nil {
			b.Fatal(err)
		}
		e.free()
	}
}

func BenchmarkVerify(b *testing.B) {
	f := newFixture(b)
	j := f.open()
	for range 20000 {
		if err := j.Post(context.Background(), decided("0192f0c1-7a5e-7000-8000-000000000000", gate.Deny)); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f.mustVerify()
	}
	b.ReportMetric(20000*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
