package console

import (
	"context"
	"errors"

	"github.com/countersign/countersign/extproc/approval"
)

// lost is a desk whose store cannot be reached.
type lost struct{ *approval.Desk }

var errLost = errors.New("dial 10.0.0.1:6379: connection refused")

func (lost) List(context.Context, approval.Filter) (approval.Page, error) {
	return approval.Page{}, errLost
}

func (lost) Get(context.Context, string) (approval.Request, error) {
	return approval.Request{}, errLost
}

func (lost) Decide(context.Context, approval.Approver, string, approval.Answer) (approval.Request, error) {
	return approval.Request{}, errLost
}
