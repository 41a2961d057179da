package evidence

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/extproc/gate"
)

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			f := newFixture(b)
			f.opts.Now = nil
			disk := &faultyDisk{}
			syncs := 0
			disk.on("sync", segmentsOnly(func(call) error { syncs++; return nil }))
			f.opts.FS = disk
			j := f.open()
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					r := decided("0192f0c1-7a5e-7000-8000-000000000000", gate.Allow)
					for left.Add(-1) >= 0 {
						if _, err := j.Append(context.Background(), r); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			f.crash(j)
			b.ReportMetric(float64(b.N)/float64(syncs), "records/sync")
		})
	}
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
