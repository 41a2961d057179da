package statement

// ParseAlone is Parse without what is remembered of other texts.
var ParseAlone = parse

// Shape is the shape of a text, or "" where it has none.
func Shape(text string) string {
	s, _ := shape(text)
	return s
}

// Scanned are the kinds of the tokens of a text.
func Scanned(text string) (kinds []int32, err error) {
	scan, err := scanned(text)
	for _, t := range scan.GetTokens() {
		kinds = append(kinds, int32(t.GetToken()))
	}
	return kinds, err
}

// Shared says that a statement was read by another of the same shape.
func (s Statement) Shared() bool { return s.shared }
