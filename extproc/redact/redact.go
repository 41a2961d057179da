package redact

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// Masked replaces a masked value.
const Masked = "[redacted]"

// minKey is how many bytes the HMAC key of a plan with tokens needs. A shorter one could be guessed from one known value.
const minKey = 16

// maxSegments bounds the path segments of one plan, and with them the bytes kept for each level of nesting (512).
const maxSegments = 4096

// Withheld says that a body, or the rest of it, cannot be redacted and so must not be sent. Its reason quotes nothing of the
// body.
type Withheld struct{ Reason string }

func (w *Withheld) Error() string { return w.Reason }

func withheld(format string, args ...any) error {
	return &Withheld{Reason: fmt.Sprintf(format, args...)}
}

// action is a [gate.Replacement]. Greater actions tell less: if two apply to one value, the greater wins.
type action uint8

const (
	keep action = iota
	turn        // give a string to Options.Turn, which rewrites URLs
	tokenize
	mask
	null
	remove
)

func actionOf(r gate.Replacement) (action, error) {
	switch r {
	case "", gate.Mask:
		return mask, nil
	case gate.Token:
		return tokenize, nil
	case gate.Null:
		return null, nil
	case gate.Remove:
		return remove, nil
	default:
		return keep, fmt.Errorf("unknown replacement %q: use mask, remove, null or token", string(r))
	}
}

// Plan is what is to be redacted, compiled. It does not change, and any number of goroutines may share it. The zero Plan
// redacts nothing.
type Plan struct {
	names []string // of the counts: paths and detectors
	own   int      // the first own of names are redactions, the others paths of URLs
	takes bool     // a path takes values out
	paths automaton
	key   []byte

	on      kindSet       // detectors in use
	actions [kinds]action // by detector
	counts  [kinds]int    // by detector: index in names
	removes bool          // a detector may remove the value that it looks at
}

// Compile makes a plan of the redactions that apply to one answer. The key is for tokens, and may be empty when nothing
// becomes one. A redaction with an empty With masks. Where two redactions meet in one value, the one that tells less
// applies: remove, then null, then mask, then token.
//
// turned are paths of URLs: what stays of those values and is a string becomes what [Options].Turn makes of it.
func Compile(rs []gate.Redaction, key []byte, turned ...string) (*Plan, error) {
	p := &Plan{key: slices.Clone(key)}
	var errs []error
	for _, r := range rs {
		if err := p.add(r); err != nil {
			errs = append(errs, err)
		}
	}
	p.own = len(p.names)
	for _, path := range turned {
		if err := p.addTurned(path); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := p.paths.compile(); err != nil {
		return nil, err
	}
	return p, nil
}

// Check reports what is wrong with one redaction, as [Compile] would.
func Check(r gate.Redaction) error {
	p := &Plan{key: make([]byte, minKey)}
	if err := p.add(r); err != nil {
		return err
	}
	return p.paths.compile()
}

// CheckTurned reports what is wrong with a path of URLs, as [Compile] would.
func CheckTurned(path string) error { return new(Plan).addTurned(path) }

func (p *Plan) addTurned(path string) error {
	segments, err := parsePath(path)
	if err != nil {
		return fmt.Errorf("rewrite path %q: %w", path, err)
	}
	p.names = append(p.names, path)
	p.paths.add(segments, turn, len(p.names)-1)
	return nil
}

// checkColumn reports what is wrong with a column. The kind whose answers have columns redacts them; a plan of documents does not.
func checkColumn(r gate.Redaction) error {
	parts := strings.Split(r.Column, ".")
	if len(parts) != 3 || parts[0] == "*" || slices.Contains(parts, "") {
		return fmt.Errorf("redact column %q: write SCHEMA.TABLE.COLUMN, with * for any table or any column", r.Column)
	}
	if r.With != "" && r.With != gate.Mask && r.With != gate.Null && r.With != gate.Token {
		return fmt.Errorf("redact column %q: %s is not for columns: use mask, null or token", r.Column, r.With)
	}
	return nil
}

func (p *Plan) add(r gate.Redaction) error {
	if r.Column != "" {
		if r.Path != "" || r.Detect != "" {
			return fmt.Errorf("redact: column %q and something else in one element: write two", r.Column)
		}
		return checkColumn(r)
	}
	act, err := actionOf(r.With)
	if err != nil {
		return fmt.Errorf("redact %q: %w", r.Name(), err)
	}
	if act == tokenize && len(p.key) < minKey {
		return fmt.Errorf("redact %q: token needs a key of at least %d bytes, not %d", r.Name(), minKey, len(p.key))
	}
	switch {
	case r.Path != "" && r.Detect != "":
		return fmt.Errorf("redact: path %q and detect %q in one element: write two", r.Path, r.Detect)
	case r.Path != "":
		segments, err := parsePath(r.Path)
		if err != nil {
			return fmt.Errorf("redact path %q: %w", r.Path, err)
		}
		if len(segments) == 0 && act == remove {
			return fmt.Errorf("redact path %q: a whole document cannot be removed: use mask or null", r.Path)
		}
		p.paths.add(segments, act, p.count(r.Path))
		p.takes = true
	case r.Detect != "":
		k, ok := kindOf(r.Detect)
		if !ok {
			return fmt.Errorf("redact: unknown detector %q: use one of %q", r.Detect, detectors())
		}
		p.on |= 1 << k
		p.actions[k] = max(p.actions[k], act)
		p.counts[k] = p.count(r.Detect)
		p.removes = p.removes || act == remove
	default:
		return errors.New("redact: neither a path nor a detector")
	}
	return nil
}

// count returns where redactions called name are counted.
func (p *Plan) count(name string) int {
	if i := slices.Index(p.names, name); i >= 0 {
		return i
	}
	p.names = append(p.names, name)
	return len(p.names) - 1
}

// Empty reports whether the plan changes nothing, so that every body passes as it is.
func (p *Plan) Empty() bool { return !p.Redacts() && len(p.paths.rules) == 0 }

// Redacts reports whether the plan takes anything out. Of one that does not, and is not empty, the streams never withhold
// anything: see [Stream.Unread].
func (p *Plan) Redacts() bool { return p != nil && (p.on != 0 || p.takes) }

// tally returns the counts of names[from:to] that are not 0, for a record.
func (p *Plan) tally(counts []int64, from, to int) []gate.Count {
	var list []gate.Count
	for i := from; i < min(to, len(counts)); i++ {
		if n := counts[i]; n > 0 {
			list = append(list, gate.Count{Name: p.names[i], N: n})
		}
	}
	return list
}
