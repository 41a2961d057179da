package session

import (
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Bound bounds those that have not said who they are.
func (s *Server) Bound(patience time.Duration, places int) { s.patience, s.places = patience, places }

// ParameterText is a binary parameter as policy sees it.
func ParameterText(oid uint32, raw []byte) (string, bool) {
	p := parameter{kind: oid, binary: true, raw: raw}
	return p.text(pgtype.NewMap())
}

// CanonicalText is how policy sees a value of a type that came as text.
func CanonicalText(oid uint32, text string) string { return canonical(oid, text) }
