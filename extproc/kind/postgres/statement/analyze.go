package statement

// Analyze says what s does in a session with that state, of a database with that catalog. The error means that nobody can tell,
// and nothing may run.
func (s Statement) Analyze(c *Catalog, st *State) (Analysis, error) {
	if s.node == nil {
		return Analysis{Access: Unknown}, errNothing
	}
	return Analysis{Access: Unknown, Doubt: &Doubt{"0A000", "not written yet"}}, nil
}
