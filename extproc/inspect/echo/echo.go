// Package echo finds the target's credential in the target's answer. Targets that show requests (debug pages, error messages,
// header dumps) would hand it to the agent, which must not have it.
//
// It finds the credential as it is and in the forms in which targets write it (see formsOf), in the body, header fields and
// trailers, however the body is cut into pieces. It searches the bytes that the agent would get. It stops a target that
// repeats the credential without thought. It does not stop one that wants to give it away: reversed, in parts (Range), encoded
// twice, or in an unknown encoding.
package echo

import (
	"bytes"
	"slices"
	"strings"
)

// leastKept is how much of a form must stand at the end of a piece for that end to be kept back: half of it. An agent that
// has the target send its own text, and stop in the middle, can see whether something is kept back. If a few bytes were
// enough, it could guess the credential byte by byte; so it must know half of it before it learns more. The price: an answer
// that is cut within the credential can show up to half of it.
func leastKept(form []byte) int { return len(form) / 2 }

// Finder searches one answer. The nil Finder finds nothing.
type Finder struct {
	*Forms
	tail []byte // the end of what came so far: one byte less than the longest form
	kept int    // how many bytes of tail were not passed on yet
}

// New returns a finder of f, or nil if there is nothing to look for.
func New(f *Forms) *Finder {
	if f == nil || len(f.forms) == 0 {
		return nil
	}
	return &Finder{Forms: f}
}

// Write takes the next piece of the body. It returns what may be passed on of it and of what was held back. Once found is
// true, nothing more may be passed on.
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
	if e.kept > 0 {
		out = append(slices.Clone(e.tail[len(e.tail)-e.kept:]), piece...)
	}
	last := seam[max(0, len(seam)-most):]
	if len(piece) >= most {
		last = piece[len(piece)-most:]
	}
	e.tail = slices.Clone(last)
	e.kept = 0
	if !end {
		e.kept = min(e.begun(), len(out))
	}
	return out[:len(out)-e.kept], false
}

// begun returns how many bytes at the end of what came so far begin a form, or 0 if that is less than its leastKept.
func (e *Finder) begun() int {
	most := 0
	for _, form := range e.forms {
		tail := e.tail[max(0, len(e.tail)-len(form)+1):]
		for from := 0; len(tail)-from > most; from++ {
			i := bytes.Index(tail[from:], form[:leastKept(form)])
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

// Keeps reports whether something is kept back, because it may be the beginning of the credential.
func (e *Finder) Keeps() bool { return e != nil && e.kept > 0 }

// Text reports whether the value of a header or trailer field contains the credential.
func (e *Finder) Text(value string) bool {
	return e != nil && slices.ContainsFunc(e.forms, func(form []byte) bool { return strings.Contains(value, string(form)) })
}
