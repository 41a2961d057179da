//go:build soak

package main

import (
	"fmt"
	"testing"
	"time"
)

// The long forms of tests that `make test` runs in short.

func TestSoakKillsUnderLoad(t *testing.T) { killsUnderLoad(t, 30) }

func TestSoakNoRequestIsJudgedByHalfAState(t *testing.T) { noHalfState(t, 3*time.Minute) }

func TestSoakAnySequenceReconciles(t *testing.T) {
	first := uint64(time.Now().Unix()) // other sequences each time; a failure tells its seed
	for seed := first; seed < first+12; seed++ {
		t.Run(fmt.Sprint("seed-", seed), func(t *testing.T) { playSequence(t, seed, 60) })
	}
}
