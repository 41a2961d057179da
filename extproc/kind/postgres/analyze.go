package postgres

import (
	"context"
	"errors"

	"github.com/countersign/countersign/extproc/kind/postgres/session"
	"github.com/countersign/countersign/extproc/kind/postgres/statement"
)

var errNoCatalog = errors.New("there is no catalog to read statements by")

// analyze says what a statement does, by the catalog of the session's database as its role sees it.
func analyze(_ context.Context, _ *session.Target, _ statement.Statement, _ *statement.State) (statement.Analysis, error) {
	return statement.Analysis{Access: statement.Unknown}, errNoCatalog
}
