package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/countersign/countersign/extproc/gate"
)

// Bounds on elements. Elements can be computed from what an agent sent, and go into records and answers.
const (
	maxElements  = 1000 // of one set
	maxIDBytes   = 128
	maxTextBytes = 1024 // a reason, an approver, a path
	maxSummary   = 300  // bytes: what is read at a glance, on the first screen of a phone
	maxApprovers = 64
	maxQuorum    = 10 // approvers that one rule can ask for
)

// setKind is one of the five sets that a package can have.
type setKind int

const (
	notASet setKind = iota
	allowSet
	askSet
	denySet
	redactSet
	limitSet
	setKinds
)

func (k setKind) String() string {
	return [setKinds]string{"", "allow", "ask", "deny", "redact", "limit"}[k]
}

func kindOf(name string) setKind {
	switch name {
	case "allow":
		return allowSet
	case "ask":
		return askSet
	case "deny":
		return denySet
	case "redact":
		return redactSet
	case "limit":
		return limitSet
	default:
		return notASet
	}
}

// form shows the elements of a kind of set, for messages.
func (k setKind) form() string {
	switch k {
	case askSet:
		return `{"id": …, "approvers": […], "reason"?: …, "summary"?: …, "quorum"?: …}`
	case redactSet:
		return `{"path": …, "with"?: …, "card"?: …}, {"detect": …, "with"?: …, "card"?: …} or {"column": …, "with"?: …, "use"?: …}`
	case limitSet:
		return `{"rows": …}, {"bytes": …}, {"seconds": …} or {"read_only": true}`
	default:
		return `{"id": …, "reason"?: …}`
	}
}

// element is what one element of a set says. The zero value says nothing.
type element struct {
	id, reason         string
	summary            string
	approvers          []string
	quorum             int
	path, detect, with string
	column             string
	use                bool
	onCard             bool // "card": false
	limits             gate.Limits
	limited            []gate.Limit // the limits that it names

	hasID, hasApprovers, hasQuorum, hasPath, hasDetect, hasColumn, hasUse bool
}

// decodeElement decodes an element of a set, strictly.
func decodeElement(kind setKind, v ast.Value) (*element, error) {
	object, ok := v.(ast.Object)
	if !ok {
		return nil, fmt.Errorf("an element of %s is a %s, not an object %s", kind, ast.ValueName(v), kind.form())
	}
	e := &element{}
	if err := object.Iter(func(name, value *ast.Term) error { return e.set(kind, name.Value, value.Value) }); err != nil {
		return nil, err
	}
	return e, e.complete(kind)
}

// set stores one member.
func (e *element) set(kind setKind, name, value ast.Value) error {
	key, _ := name.(ast.String)
	if err := e.mark(kind, name); err != nil {
		return err
	}
	var err error
	switch string(key) {
	case "id":
		e.id, err = plainText(value, maxIDBytes)
	case "reason":
		e.reason, err = text(value, maxTextBytes)
	case "summary":
		e.summary, err = text(value, maxSummary)
	case "approvers":
		e.approvers, err = approvers(value)
	case "quorum":
		e.quorum, err = quorum(value)
	case "path":
		e.path, err = plainText(value, maxTextBytes)
	case "detect":
		e.detect, err = plainText(value, maxTextBytes)
	case "column":
		e.column, err = plainText(value, maxTextBytes)
	case "use":
		e.use, err = truth(value)
	case "with":
		e.with, err = replacement(value)
	case "card":
		var hides bool
		hides, err = truth(value)
		e.onCard = !hides
	default:
		err = e.limit(gate.Limit(key), value)
	}
	if err != nil {
		return fmt.Errorf("%s of an element of %s %w", string(key), kind, err)
	}
	return nil
}

// mark notes that e has a member of that name, and refuses one that the kind of set does not know.
func (e *element) mark(kind setKind, name ast.Value) error {
	key, ok := name.(ast.String)
	if !ok {
		return fmt.Errorf("an element of %s has %v for a name", kind, name)
	}
	var known bool
	switch string(key) {
	case "id":
		e.hasID, known = true, kind == allowSet || kind == askSet || kind == denySet
	case "reason":
		known = kind == allowSet || kind == askSet || kind == denySet
	case "summary":
		known = kind == askSet
	case "approvers":
		e.hasApprovers, known = true, kind == askSet
	case "quorum":
		e.hasQuorum, known = true, kind == askSet
	case "path":
		e.hasPath, known = true, kind == redactSet
	case "detect":
		e.hasDetect, known = true, kind == redactSet
	case "column":
		e.hasColumn, known = true, kind == redactSet
	case "use":
		e.hasUse, known = true, kind == redactSet
	case "with", "card":
		known = kind == redactSet
	default:
		if known = kind == limitSet && slices.Contains(gate.AllLimits, gate.Limit(key)); known {
			e.limited = append(e.limited, gate.Limit(key))
		}
	}
	if !known {
		return fmt.Errorf("an element of %s has the unknown name %.64q; it is %s", kind, string(key), kind.form())
	}
	return nil
}

// complete returns an error if a required member is missing.
func (e *element) complete(kind setKind) error {
	switch {
	case kind == redactSet && !one(e.hasPath, e.hasDetect, e.hasColumn):
		return fmt.Errorf("an element of redact has exactly one of path, detect and column: %s", kind.form())
	case e.hasUse && !e.hasColumn:
		return fmt.Errorf("an element of redact has use, which is for columns: %s", kind.form())
	case kind == limitSet && len(e.limited) == 0:
		return fmt.Errorf("an element of limit limits nothing: %s", kind.form())
	case kind != redactSet && kind != limitSet && !e.hasID:
		return fmt.Errorf("an element of %s has no id: %s", kind, kind.form())
	case kind == askSet && !e.hasApprovers:
		return fmt.Errorf("an element of ask has no approvers: %s", kind.form())
	}
	return nil
}

// one reports whether exactly one of several holds.
func one(of ...bool) bool {
	n := 0
	for _, holds := range of {
		if holds {
			n++
		}
	}
	return n == 1
}

func (e *element) rule(pkg string) gate.Rule {
	return gate.Rule{Package: pkg, ID: e.id, Reason: e.reason}
}

func (e *element) askRule(pkg string) gate.AskRule {
	quorum := e.quorum
	if !e.hasQuorum {
		quorum = 1
	}
	return gate.AskRule{Rule: e.rule(pkg), Approvers: e.approvers, Quorum: quorum, Summary: e.summary}
}

func (e *element) redaction() gate.Redaction {
	with := gate.Replacement(e.with)
	if e.with == "" {
		with = gate.Mask
	}
	return gate.Redaction{Path: e.path, Detect: e.detect, Column: e.column, Use: e.use, With: with, OnCard: e.onCard}
}

// plainText returns the text in v. It must not be empty or have control characters, since it names something.
func plainText(v ast.Value, most int) (string, error) {
	s, err := text(v, most)
	switch {
	case err != nil:
		return "", err
	case s == "":
		return "", errors.New("is empty")
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return "", fmt.Errorf("has the control character %U", r)
		}
	}
	return s, nil
}

func text(v ast.Value, most int) (string, error) {
	s, ok := v.(ast.String)
	switch {
	case !ok:
		return "", fmt.Errorf("is a %s, not text", ast.ValueName(v))
	case len(s) > most:
		return "", fmt.Errorf("is longer than %d bytes", most)
	case !utf8.ValidString(string(s)):
		return "", errors.New("is not valid UTF-8")
	}
	return strings.Clone(string(s)), nil // or ten bytes would keep a body of megabytes in memory
}

func approvers(v ast.Value) ([]string, error) {
	list, ok := v.(*ast.Array)
	switch {
	case !ok:
		return nil, fmt.Errorf("is a %s, not a list of texts", ast.ValueName(v))
	case list.Len() == 0:
		return nil, errors.New("is empty: nobody could approve")
	case list.Len() > maxApprovers:
		return nil, fmt.Errorf("has more than %d entries", maxApprovers)
	}
	names := make([]string, list.Len())
	for i := range names {
		name, err := plainText(list.Elem(i).Value, maxTextBytes)
		if err != nil {
			return nil, fmt.Errorf("has an entry that %w", err)
		}
		if err := gate.CheckApprover(name); err != nil {
			return nil, fmt.Errorf("has %w", err)
		}
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("has %.64q twice", name)
		}
		names[i] = name
	}
	return names, nil
}

func truth(v ast.Value) (bool, error) {
	b, ok := v.(ast.Boolean)
	if !ok {
		return false, fmt.Errorf("is a %s, not true or false", ast.ValueName(v))
	}
	return bool(b), nil
}

func quorum(v ast.Value) (int, error) {
	n, ok := v.(ast.Number)
	if !ok {
		return 0, fmt.Errorf("is a %s, not a number", ast.ValueName(v))
	}
	q, err := strconv.Atoi(json.Number(n).String())
	if err != nil || q < 1 || q > maxQuorum {
		return 0, fmt.Errorf("is %.32s, not a whole number from 1 to %d", n, maxQuorum)
	}
	return q, nil
}

// Bounds on limits. A time is told to PostgreSQL as milliseconds in 31 bits; counts are exact in every reader of JSON.
const (
	maxLimit = 1 << 53
	maxTime  = math.MaxInt32 * time.Millisecond
)

// limit stores one limit.
func (e *element) limit(name gate.Limit, v ast.Value) (err error) {
	switch name {
	case gate.LimitRows:
		e.limits.Rows, err = count(v)
	case gate.LimitBytes:
		e.limits.Bytes, err = count(v)
	case gate.LimitReadOnly:
		e.limits.ReadOnly, err = truth(v)
	case gate.LimitSeconds:
		e.limits.Time, err = seconds(v)
	}
	return err
}

func count(v ast.Value) (int64, error) {
	n, ok := v.(ast.Number)
	if !ok {
		return 0, fmt.Errorf("is a %s, not a number", ast.ValueName(v))
	}
	c, err := strconv.ParseInt(json.Number(n).String(), 10, 64)
	if err != nil || c < 1 || c > maxLimit {
		return 0, fmt.Errorf("is %.32s, not a whole number from 1 to %d; what should give nothing is denied", n, int64(maxLimit))
	}
	return c, nil
}

func seconds(v ast.Value) (time.Duration, error) {
	n, ok := v.(ast.Number)
	if !ok {
		return 0, fmt.Errorf("is a %s, not a number", ast.ValueName(v))
	}
	s, err := strconv.ParseFloat(json.Number(n).String(), 64)
	if err != nil || !(s >= 0.001 && s <= maxTime.Seconds()) {
		return 0, fmt.Errorf("is %.32s, not a number of seconds from 0.001 to %d", n, maxTime/time.Second)
	}
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond), nil
}

func replacement(v ast.Value) (string, error) {
	s, ok := v.(ast.String)
	if ok && strength(gate.Replacement(s)) > 0 {
		return strings.Clone(string(s)), nil
	}
	return "", fmt.Errorf("is %.64v, not one of %q, %q, %q and %q", v, gate.Mask, gate.Remove, gate.Null, gate.Token)
}
