package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/approval"
	"github.com/countersign/countersign/extproc/evidence"
)

// holdApprovalsAgainst voids what the approvals file has forgotten and the journal knows. Only of a file that is restored by
// itself can that be known: a whole data directory from a backup is an older world, and what contradicts it is at the
// collector. Redis has a guard of its own, see approval/redis.
func (g *gateway) holdApprovalsAgainst(ctx context.Context, desk *approval.Desk) error {
	n, err := desk.HoldAgainst(ctx, func() (map[string]uint64, error) { return recordedRevisions(ctx, g.journal.Dir()) })
	if n > 0 {
		g.log.Warn("requests for approval were voided, because the approvals file is older than the journal", "requests", n)
	}
	return err
}

// recordedRevisions are the highest revision of each request that a journal tells of.
func recordedRevisions(ctx context.Context, dir string) (map[string]uint64, error) {
	revs := map[string]uint64{}
	for e, err := range evidence.Records(ctx, dir, evidence.Filter{Types: []string{"approval.*"}}) {
		if err != nil {
			return nil, err
		}
		var body struct {
			Approval string `json:"approval"`
			Event    string `json:"event"`
		}
		if err := json.Unmarshal(e.Body, &body); err != nil {
			return nil, fmt.Errorf("read record %d: %w", e.Seq, err)
		}
		_, event, _ := strings.Cut(body.Event, "/")
		if rev, err := strconv.ParseUint(event, 10, 64); err == nil { // other events change nothing
			revs[body.Approval] = max(revs[body.Approval], rev)
		}
	}
	return revs, nil
}
