package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/countersign/countersign/extproc/extproctest/story"
)

// TestEnvoyLeavesNoSharedMemory is about what an Envoy that may be restarted hot leaves in /dev/shm, for ever, at each start.
func TestEnvoyLeavesNoSharedMemory(t *testing.T) {
	g := start(t, readOnly, story.Options{})
	envoy := envoyOf(t, g)
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", envoy))
	if err != nil || !strings.Contains(string(maps), "envoy") {
		t.Fatalf("process %d is not Envoy: %v\n%s", envoy, err, maps)
	}
	for line := range strings.Lines(string(maps)) {
		if strings.Contains(line, "/dev/shm/") {
			t.Errorf("Envoy maps %s", line)
		}
	}
}
