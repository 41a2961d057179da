package redis

import (
	"testing"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
	"github.com/countersign/countersign/extproc/extproctest"
)

// connect returns a store that is closed with the test.
func connect(tb testing.TB, o Options) *Store {
	tb.Helper()
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	server := extproctest.StartRedis(t, extproctest.RedisConfig{})
	approvaltest.Run(t, func(tb testing.TB) (approval.Store, approval.Store) {
		server.Do("FLUSHALL")
		o := Options{Addresses: []string{server.Address}}
		return connect(tb, o), connect(tb, o)
	})
}

func BenchmarkCycles(b *testing.B) {
	server := extproctest.StartRedis(b, extproctest.RedisConfig{})
	approvaltest.BenchmarkCycles(b, func(tb testing.TB) (approval.Store, approval.Store) {
		server.Do("FLUSHALL")
		o := Options{Addresses: []string{server.Address}}
		return connect(tb, o), connect(tb, o)
	})
}
