package main

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

var update = flag.Bool("update", false, "write the evidence sections of the stories")

// TestStories plays every story through ext_proc.
func TestStories(t *testing.T) {
	for _, file := range stories(t, "*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			story.Play(t, file, story.Options{Update: *update})
		})
	}
}

// TestStoriesThroughExtAuthz plays the stories that do not look at answers through ext_authz too: the same operations
// get the same rulings. A story whose name begins with "answer-" is about what ext_authz does not see.
func TestStoriesThroughExtAuthz(t *testing.T) {
	for _, file := range stories(t, "*.txtar") {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		if strings.HasPrefix(name, "answer-") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			story.Play(t, file, story.Options{Attach: "ext_authz", Update: *update})
		})
	}
}

func stories(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "stories", pattern))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("there are no stories")
	}
	return files
}
