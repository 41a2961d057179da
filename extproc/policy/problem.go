package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Problem is one thing that is wrong with a set of policies, and where.
type Problem struct {
	File    string // as it was opened; empty when the problem is in no file
	Line    int    // 1 is the first; 0 when only the file is known
	Col     int
	Message string // what is wrong and how to put it right
}

func (p Problem) String() string {
	switch {
	case p.File == "":
		return p.Message
	case p.Line == 0:
		return p.File + ": " + p.Message
	default:
		return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Message)
	}
}

// Problems is the error of [Load]: everything that is wrong, by file and line, each once.
type Problems struct {
	Problems []Problem
}

func (p *Problems) Error() string {
	lines := make([]string, len(p.Problems))
	for i, problem := range p.Problems {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

func (p *Problems) add(file string, line, col int, format string, args ...any) {
	p.Problems = append(p.Problems, Problem{File: file, Line: line, Col: col, Message: fmt.Sprintf(format, args...)})
}

func (p *Problems) at(loc *ast.Location, format string, args ...any) {
	if loc == nil {
		p.add("", 0, 0, format, args...)
		return
	}
	p.add(loc.File, loc.Row, loc.Col, format, args...)
}

// addOPA adds what OPA's parser or compiler found.
func (p *Problems) addOPA(err error) {
	var list ast.Errors
	var one *ast.Error
	switch {
	case errors.As(err, &list):
		for _, e := range list {
			p.at(e.Location, "%s", opaMessage(e))
		}
	case errors.As(err, &one):
		p.at(one.Location, "%s", opaMessage(one))
	default:
		p.add("", 0, 0, "%s", err)
	}
}

// opaMessage returns an error of OPA as one line, with our reason or advice if there is one.
func opaMessage(e *ast.Error) string {
	message := e.Code + ": " + e.Message
	if e.Details != nil {
		message += " (" + strings.Join(strings.Fields(strings.Join(e.Details.Lines(), " ")), " ") + ")"
	}
	if e.Code == ast.UnsafeVarErr {
		message += ": nothing gives it a value; is it misspelt, or is `input.`, an import or a `some` missing?"
	}
	if name, ok := strings.CutPrefix(e.Message, "undefined function "); ok {
		if why, removed := removedBuiltins[name]; removed {
			message += ": " + why
		}
	}
	return message
}

// err returns p, sorted and each problem once, or nil if there is none.
func (p *Problems) err() error {
	if len(p.Problems) == 0 {
		return nil
	}
	slices.SortStableFunc(p.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Message, b.Message))
	})
	p.Problems = slices.Compact(p.Problems)
	return p
}
