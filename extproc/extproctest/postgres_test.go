package extproctest

import "testing"

func TestPostgres(t *testing.T) {
	p := StartPostgres(t, PostgresConfig{Authority: NewAuthority(t), SQL: "CREATE ROLE app LOGIN PASSWORD 'secret'; CREATE DATABASE orders OWNER app;"})
	if got := p.SQL("orders", "SELECT current_user, current_database(), current_setting('ssl');"); got != "postgres|orders|on" {
		t.Errorf("%q", got)
	}
}
