package redact

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"
)

// segment is one step of a path.
type segment struct {
	name       string
	index      int
	kind       segmentKind
	descendant bool // "..": the step may be taken at any depth
}

type segmentKind uint8

const (
	byName segmentKind = iota
	byIndex
	byAny
)

// maxIndex is the greatest index of RFC 9535, section 2.1.
const maxIndex = 1<<53 - 1

// parsePath reads the subset of RFC 9535 that the package comment describes. "$" has no segments.
func parsePath(path string) ([]segment, error) {
	if !utf8.ValidString(path) {
		return nil, errors.New("it is not valid UTF-8")
	}
	rest, ok := strings.CutPrefix(path, "$")
	if !ok {
		return nil, errors.New(`it must begin with "$"`)
	}
	var segments []segment
	for rest != "" {
		s, after, err := parseSegment(rest)
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", len(path)-len(rest), err)
		}
		segments = append(segments, s)
		rest = after
	}
	return segments, nil
}

func parseSegment(s string) (segment, string, error) {
	switch {
	case strings.HasPrefix(s, "..["):
		seg, rest, err := parseBracket(s[2:])
		if err == nil && seg.kind != byName {
			err = errors.New(`".." takes a name here: "..name" or "..['name']"`)
		}
		seg.descendant = true
		return seg, rest, err
	case strings.HasPrefix(s, ".."):
		seg, rest, err := parseName(s[2:])
		seg.descendant = true
		return seg, rest, err
	case strings.HasPrefix(s, ".*"):
		return segment{kind: byAny}, s[2:], nil
	case s[0] == '.':
		return parseName(s[1:])
	case s[0] == '[':
		return parseBracket(s)
	default:
		return segment{}, "", fmt.Errorf(`%.20q is not a step: use ".name", "['name']", "[n]", "[*]", ".*" or "..name"`, s)
	}
}

// parseName reads a member-name-shorthand (RFC 9535, section 2.5.1.1).
func parseName(s string) (segment, string, error) {
	end := 0
	for i, r := range s {
		digit := r >= '0' && r <= '9'
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r >= 0x80
		if !letter && (!digit || i == 0) {
			break
		}
		end = i + utf8.RuneLen(r)
	}
	if end == 0 {
		return segment{}, "", fmt.Errorf(`a name is missing before %.20q; write a name with other characters as ['name']`, s)
	}
	if end < len(s) && s[end] != '.' && s[end] != '[' {
		return segment{}, "", fmt.Errorf(`%q after the name %q; write a name with other characters as ['name']`, s[end], s[:end])
	}
	return segment{name: s[:end]}, s[end:], nil
}

func parseBracket(s string) (segment, string, error) {
	inside := s[1:]
	switch {
	case strings.HasPrefix(inside, "*]"):
		return segment{kind: byAny}, inside[2:], nil
	case strings.HasPrefix(inside, "'"), strings.HasPrefix(inside, `"`):
		name, rest, err := parseQuoted(inside)
		if err != nil {
			return segment{}, "", err
		}
		if !strings.HasPrefix(rest, "]") {
			return segment{}, "", fmt.Errorf("one name in brackets, then %q: lists and slices are not supported", "]")
		}
		return segment{name: name}, rest[1:], nil
	}
	digits, rest, ok := strings.Cut(inside, "]")
	if !ok {
		return segment{}, "", fmt.Errorf(`%.20q has no "]"`, s)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > maxIndex || strconv.FormatInt(n, 10) != digits {
		return segment{}, "", fmt.Errorf("[%.20s] is not supported: use a name in quotes, * or an index of 0 or more", digits)
	}
	return segment{kind: byIndex, index: int(n)}, rest, nil
}

// parseQuoted reads a string-literal of RFC 9535, section 2.3.1.1, whose escapes are those of JSON and of its own quote.
func parseQuoted(s string) (name, rest string, err error) {
	quote := s[0]
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case quote:
			name, err := unescapeName(s[1:i], quote)
			return name, s[i+1:], err
		case '\\':
			i++
		}
	}
	return "", "", fmt.Errorf("%.20q has no closing quote", s)
}

func unescapeName(s string, quote byte) (string, error) {
	var b []byte // s as a JSON string
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == quote && quote == '\'':
			b = append(b, quote)
			i++
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"' && quote == '\'':
			return "", fmt.Errorf(`%q: \" is no escape between single quotes`, s)
		case s[i] == '\\' && i+1 < len(s):
			b = append(b, s[i], s[i+1])
			i++
		case s[i] == '"':
			b = append(b, '\\', '"')
		default:
			b = append(b, s[i])
		}
	}
	b = append(b, '"')
	end, status, _ := scanString(b, 1)
	if status != stringEnded || end != len(b) {
		return "", fmt.Errorf("%q has an escape or a character that a name cannot have", s)
	}
	return string(appendDecoded(nil, b)), nil
}

// automaton follows all paths of a plan at once. A path of n segments has n+1 states in a row: state i means that its
// first i segments were matched; the last one accepts. A set of states is a row of words, so one step into a member is a
// few operations on words, whatever the number of paths.
type automaton struct {
	rules []pathRule

	words    int
	start    []uint64
	accept   []uint64
	removing []uint64 // accepting states of paths that remove
	anyChild []uint64 // states whose segment takes any child
	anyDepth []uint64 // states whose segment may be taken further down
	names    map[string][]uint64
	indexes  map[int][]uint64
	lengths  uint64 // bit n: a name of n bytes is looked for; bit 63: one of 63 or more
	ruleOf   []int32
}

type pathRule struct {
	segments []segment
	action   action
	count    int
}

func (a *automaton) add(segments []segment, act action, count int) {
	for i := range a.rules {
		if a.rules[i].count == count { // the same path again
			a.rules[i].action = max(a.rules[i].action, act)
			return
		}
	}
	a.rules = append(a.rules, pathRule{segments, act, count})
}

func (a *automaton) compile() error {
	states := 0
	for _, r := range a.rules {
		states += len(r.segments) + 1
	}
	if states > maxSegments {
		return fmt.Errorf("redact: the paths have %d segments together, and %d are the limit", states, maxSegments)
	}
	a.words = (states + 63) / 64
	for _, set := range []*[]uint64{&a.start, &a.accept, &a.removing, &a.anyChild, &a.anyDepth} {
		*set = make([]uint64, a.words)
	}
	a.names, a.indexes = map[string][]uint64{}, map[int][]uint64{}
	a.ruleOf = make([]int32, states)
	bit := 0
	for i, r := range a.rules {
		setBit(a.start, bit)
		for _, s := range r.segments {
			a.addState(bit, s)
			bit++
		}
		setBit(a.accept, bit)
		if r.action == remove {
			setBit(a.removing, bit)
		}
		a.ruleOf[bit] = int32(i)
		bit++
	}
	return nil
}

func (a *automaton) addState(bit int, s segment) {
	if s.descendant {
		setBit(a.anyDepth, bit)
	}
	switch s.kind {
	case byAny:
		setBit(a.anyChild, bit)
	case byIndex:
		if a.indexes[s.index] == nil {
			a.indexes[s.index] = make([]uint64, a.words)
		}
		setBit(a.indexes[s.index], bit)
	case byName:
		if a.names[s.name] == nil {
			a.names[s.name] = make([]uint64, a.words)
		}
		setBit(a.names[s.name], bit)
		a.lengths |= 1 << min(len(s.name), 63)
	}
}

func setBit(set []uint64, bit int) { set[bit/64] |= 1 << (bit % 64) }

// member steps from the states of an object into its member called name.
func (a *automaton) member(to, from []uint64, name []byte) {
	var matching []uint64
	if a.lengths&(1<<min(len(name), 63)) != 0 {
		matching = a.names[string(name)]
	}
	a.step(to, from, matching)
}

// element steps from the states of an array into its element at index.
func (a *automaton) element(to, from []uint64, index int) {
	var matching []uint64
	if len(a.indexes) > 0 {
		matching = a.indexes[index]
	}
	a.step(to, from, matching)
}

func (a *automaton) step(to, from, matching []uint64) {
	var carry uint64
	for i := range to {
		f := from[i]
		taken := f & a.anyChild[i]
		if matching != nil {
			taken |= f & matching[i]
		}
		to[i] = taken<<1 | carry | f&a.anyDepth[i]
		carry = taken >> 63
	}
}

// accepts returns the strongest action of the paths that end in states, and counts them. A path of URLs is counted later, when
// a URL is rewritten: turned is where, or -1 if no such path ends here.
func (a *automaton) accepts(states []uint64, counts []int64) (strongest action, turned int) {
	turned = -1
	for i, s := range states {
		for s &= a.accept[i]; s != 0; s &= s - 1 {
			r := &a.rules[a.ruleOf[i*64+bits.TrailingZeros64(s)]]
			if r.action == turn {
				turned = r.count
				continue
			}
			counts[r.count]++
			strongest = max(strongest, r.action)
		}
	}
	return strongest, turned
}

// removes reports whether a path that removes ends in states.
func (a *automaton) removes(states []uint64) bool {
	for i, s := range states {
		if s&a.removing[i] != 0 {
			return true
		}
	}
	return false
}
