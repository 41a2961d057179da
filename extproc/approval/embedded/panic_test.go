package embedded

import (
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/extproc/approval"
)

// TestAChangeThatPanicsIsItsOwn: the rest goes on, in the store too.
func TestAChangeThatPanicsIsItsOwn(t *testing.T) {
	s, _ := openTwice(t)
	o := approval.Opening{Digest: "d", Resource: "payments"}
	r, _, err := s.Open(t.Context(), o, func(now time.Time) (approval.Request, error) {
		return approval.Request{ID: "r", Digest: "d", Resource: "payments", State: approval.Pending, Created: now, Expires: now.Add(time.Minute)}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), r.ID, func(time.Time, *approval.Request) error { panic("made to") }); err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("error %v", err)
	}
	if got, err := s.Get(t.Context(), r.ID); err != nil || got.State != approval.Pending || got.Rev != r.Rev {
		t.Errorf("%+v, %v", got, err)
	}
}
