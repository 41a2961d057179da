package extproc

import (
	"context"
	"reflect"

	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/lane"
)

// Wait gives up all of the request's memory but the body's.
func (a *attempt) Wait(*gate.Pending) {
	a.Share.Set(a.light + a.reader.Holds(0))
}

// Resume takes up the resource of now. It is false where the request would be read otherwise by now, or Envoy carries out
// something else.
func (a *attempt) Resume(ctx context.Context, was *lane.Resource) bool {
	a.http = httpOf(a.Resource)
	return a.http != nil && a.http.Reader != nil && reflect.DeepEqual(a.http.ReadBy, httpOf(was).ReadBy) && a.carriedOut(ctx) && a.take(ctx, a.light+a.judged)
}
