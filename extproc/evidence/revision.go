package evidence

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Revisions returns the highest revision of each request for approval that the journal in dir has a record of.
func Revisions(ctx context.Context, dir string) (map[string]uint64, error) {
	revs := map[string]uint64{}
	for e, err := range Records(ctx, dir, Filter{Types: []string{"approval.*"}}) {
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
