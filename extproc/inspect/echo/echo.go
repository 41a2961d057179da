// Package echo finds the target's credential in the target's answer. Targets that show what they were asked (debug pages, error
// messages, header dumps) would hand it to the agent, which must not have it.
//
// It finds the credential as it stands and as targets write it out (see newForms), however it is cut into pieces, in what the
// agent would get: in the body, header fields and trailers. So the target is not asked to encode its answer. It stops a target
// that repeats the credential without thought. It does not stop one that wants to give it away: reversed, in parts (Range),
// encoded twice, or in an encoding that nobody here knows.
package echo

import (
	"bytes"
	"slices"
	"strings"
)

// leastHeld is how much of a form at the end of a piece holds that end back: half of it. What is shorter is passed on at
// once. An agent sees that something is held back, where it has the target send it a text of its own and stop in the middle:
// if a few bytes were enough it could guess the credential byte after byte. So it has to know half of it before it learns
// more, and an answer that is cut within the credential can show it up to half.
func leastHeld(form []byte) int { return len(form) / 2 }

// Finder reads one answer. The nil Finder finds nothing.
type Finder struct {
	*Forms
	tail []byte // the end of what came so far: one byte less than the longest form
	held int    // how much of tail was not passed on yet
}

// New looks for f. It returns nil where there is nothing to look for.
func New(f *Forms) *Finder {
	if f == nil || len(f.forms) == 0 {
		return nil
	}
	return &Finder{Forms: f}
}

// Write takes the next piece of the body, and returns what of it and of earlier pieces may be passed on. Once found is true
// nothing more may be.
func (e *Finder) Write(piece []byte, end bool) (out []byte, found bool) {
	if e == nil {
		return piece, false
	}
	most := e.longest - 1
	seam := append(slices.Clip(e.tail), piece[:min(len(piece), most)]...)
	if e.in(seam) || e.in(piece) {
		return nil, true
	}
	out = piece
	if e.held > 0 {
		out = append(slices.Clone(e.tail[len(e.tail)-e.held:]), piece...)
	}
	last := seam[max(0, len(seam)-most):]
	if len(piece) >= most {
		last = piece[len(piece)-most:]
	}
	e.tail = slices.Clone(last)
	e.held = 0
	if !end {
		e.held = min(e.begun(), len(out))
	}
	return out[:len(out)-e.held], false
}

// begun is how much of a form stands at the end of what came so far, or 0 where that is less than its leastHeld.
func (e *Finder) begun() int {
	most := 0
	for _, form := range e.forms {
		tail := e.tail[max(0, len(e.tail)-len(form)+1):]
		for from := 0; len(tail)-from > most; from++ {
			i := bytes.Index(tail[from:], form[:leastHeld(form)])
			if i < 0 {
				break
			}
			if from += i; bytes.HasPrefix(form, tail[from:]) {
				most = max(most, len(tail)-from)
			}
		}
	}
	return most
}

// Holds reports whether what came so far ends with what may be the beginning of the credential.
func (e *Finder) Holds() bool { return e != nil && e.held > 0 }

// Text reports whether the value of a header or trailer field has the credential in it.
func (e *Finder) Text(value string) bool {
	return e != nil && slices.ContainsFunc(e.forms, func(form []byte) bool { return strings.Contains(value, string(form)) })
}
