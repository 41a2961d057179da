package policy

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// A value that is canonical text is to rules what the same value is as a tree.
func TestRawIsTheValue(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `""`, `0`, `-17`, `1.5`, `1e+23`, `12345678901234567890.5`, `[]`, `{}`, `"\u0000\"é\\"`,
		`[[],{},[{}],"a",false,null,3]`, `{"":{"a":[1,{"a":2}],"GET":"http"},"a":[{"a":1},{"a":1,"b\n":2}]}`,
		"[" + strings.Repeat("511,", 300) + "512]",
	} {
		b := newBuilder(termsOf(inputType(httpKinds)))
		got, err := b.value(gate.Raw(text), 0)
		b.release()
		want, wrong := ast.ValueFromReader(strings.NewReader(text))
		if wrong != nil {
			t.Fatal(wrong)
		}
		if err != nil || got.Value.Compare(want) != 0 || got.Value.Hash() != want.Hash() || got.String() != want.String() {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
}

func TestRawThatIsNoJSON(t *testing.T) {
	for _, text := range []string{"", " 1", "1 ", "nul", "truefalse", `"`, `"a`, `"\`, `"\q"`, "[", "[1", "[1,", "[,]", "[1 2]", "{", `{"a"`, `{"a":`, `{"a":1`, `{a:1}`, `{"a" :1}`, `{1:2}`, "x", "-", "1x", "01", "1e999999", "]", strings.Repeat("[", 600)} {
		b := newBuilder(termsOf(inputType(httpKinds)))
		if got, err := b.value(gate.Raw(text), 0); err == nil {
			t.Errorf("%q is %v", text, got)
		}
		b.release()
	}
}

// However many large bodies there are at once, policy makes values of as many as there are processors. One more waits, as
// long as its request does.
func TestLargeInputsAreEvaluatedFewAtATime(t *testing.T) {
	entered, release := make(chan struct{}, 1000), make(chan struct{})
	now := func() time.Time {
		select {
		case entered <- struct{}{}:
		default: // all that is waited for has entered
		}
		<-release
		return time.Now()
	}
	s := load(t, Options{Now: now}, rego(designPolicy))
	large := func(ctx context.Context) error {
		_, err := s.Evaluate(ctx, operation("payments", web{method: "POST", body: gate.Object{{Name: "a", Value: gate.Raw(`"` + strings.Repeat("x", largeInput) + `"`)}}}))
		return err
	}
	done := make(chan error)
	for range runtime.GOMAXPROCS(0) {
		go func() { done <- large(t.Context()) }()
	}
	for range runtime.GOMAXPROCS(0) {
		<-entered
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	more := make(chan error)
	go func() { more <- large(left) }()
	select {
	case err := <-more:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	case <-entered:
		t.Error("one more than there are processors was evaluated")
		go func() { <-more }()
	}
	close(release)
	for range runtime.GOMAXPROCS(0) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
