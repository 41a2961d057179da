package extproc

import "testing"

// TestAPanicWhileACallIsRead: gRPC reads a call's message outside of every interceptor, so what a panic there ends is in our hands.
func TestAPanicWhileACallIsRead(t *testing.T) {
	out, err := (&Server{}).check(nil, t.Context(), func(any) error { panic("made to") }, nil)
	if out != nil || err == nil {
		t.Errorf("it is answered %v, %v", out, err)
	}
}
