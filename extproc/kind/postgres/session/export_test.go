package session

import "github.com/jackc/pgx/v5/pgtype"

// ParameterText is a binary parameter as policy sees it.
func ParameterText(oid uint32, raw []byte) (string, bool) {
	p := parameter{kind: oid, binary: true, raw: raw}
	return p.text(pgtype.NewMap())
}
