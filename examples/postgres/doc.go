// Package postgres is the example of a PostgreSQL server behind Envoy: a configuration, a policy with tests, and the roles and
// tables that it is about. It has no code but the tests that hold it to what it says, which run the commands of README.md.
package postgres
