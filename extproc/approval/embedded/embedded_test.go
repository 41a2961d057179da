package embedded

import (
	"path/filepath"
	"testing"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/approval/approvaltest"
)

func open(tb testing.TB) (approval.Store, approval.Store) {
	tb.Helper()
	s, err := Open(filepath.Join(tb.TempDir(), "approvals.db"), Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s, s
}

func TestContract(t *testing.T) { approvaltest.Run(t, open) }

func BenchmarkCycles(b *testing.B) { approvaltest.BenchmarkCycles(b, open) }
