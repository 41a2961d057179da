package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/extproc/policy"
)

func TestInputSchemaFile(t *testing.T) {
	name := filepath.Join("..", "..", "policies", "input.schema.json")
	want := policy.InputSchema(policyKinds())
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; go generate ./cmd/countersign writes it", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not what the Go types say; go generate ./cmd/countersign writes it anew:\n%s", name, diff)
	}
}
