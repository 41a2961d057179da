package extproc

import (
	"bytes"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/inspect/web"
)

// leastHeld is how much of a form at the end of a piece holds that end back: half of it. What is shorter is passed on at
// once. An agent sees that something is held back, where it has the target send it a text of its own and stop in the middle:
// if a few bytes were enough it could guess the credential byte after byte. So it has to know half of it before it learns
// more, and an answer that is cut within the credential can show it up to half.
func leastHeld(form []byte) int { return len(form) / 2 }

var errEcho = &web.Withheld{Reason: "the target's answer contains its own credential"}

// echo finds the target's credential in the target's answer. Targets that show what they were asked (debug pages, error
// messages, header dumps) would hand it to the agent, which holds no credential of the target (promise 7).
//
// It finds the credential as it stands and as formsOf has it, however it is cut into pieces, in what the agent would get: in
// the body, header fields and trailers. So the target is not asked to encode its answer. It stops a target that repeats the
// credential without thought, not one that wants to give it away: reversed, in parts (Range), encoded twice, or in an encoding
// that was not asked for; and answers that do not come by here (ext_authz, response: pass) are not looked at.
type echo struct {
	*needles
	tail []byte // the end of what came so far: one byte less than the longest form
	held int    // how much of tail was not passed on yet
}

// newEcho looks for n; nil where there is nothing to look for.
func newEcho(n *needles) *echo {
	if n == nil || len(n.forms) == 0 {
		return nil
	}
	return &echo{needles: n}
}

// write takes the next piece of the body, and returns what of it and of earlier pieces may be passed on.
func (e *echo) write(piece []byte, end bool) ([]byte, error) {
	if e == nil {
		return piece, nil
	}
	most := e.longest - 1
	seam := append(slices.Clip(e.tail), piece[:min(len(piece), most)]...)
	if e.in(seam) || e.in(piece) {
		return nil, errEcho
	}
	out := piece
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
	return out[:len(out)-e.held], nil
}

// begun is how much of a form stands at the end of what came so far, or 0 where that is less than its leastHeld.
func (e *echo) begun() int {
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

// fields looks at header or trailer fields.
func (e *echo) fields(fields []web.Field) error {
	if e == nil {
		return nil
	}
	for _, f := range fields {
		for _, form := range e.forms {
			if strings.Contains(f.Value, string(form)) {
				return errEcho
			}
		}
	}
	return nil
}
