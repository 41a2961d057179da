package extproc

import (
	"bytes"
	"slices"
	"strings"

	"github.com/countersign/countersign/extproc/inspect/web"
)

// shortestSecret is the shortest credential that is looked for in answers. A shorter one stands in them by chance.
const shortestSecret = 8

// leastHeld is how much of a credential at the end of a piece holds that end back. What is shorter is passed on at once,
// so that a stream is not stopped by every letter with which the credential happens to begin.
const leastHeld = 4

var errEcho = &web.Withheld{Reason: "the target's answer contains its own credential"}

// echo finds the target's credential in the target's answer. Targets that show what they were asked (debug pages, error
// messages, header dumps) would hand it to the agent, which holds no credential of the target (promise 7).
//
// It finds the exact bytes, however they are cut into pieces, in what the agent would get: in the body, header fields and
// trailers. So the target is not asked to encode its answer. It stops a target that repeats the credential, not one that
// wants to give it away in another spelling, in parts (Range), or in an encoding that was not asked for; and answers that do
// not come by here (ext_authz, response: pass) are not looked at.
type echo struct {
	secret []byte
	tail   []byte // the end of what came so far: one byte less than the secret
	held   int    // how much of tail was not passed on yet
}

// newEcho looks for what a header field's value has behind its scheme; nil where that is too short to be looked for.
func newEcho(value string) *echo {
	secret := value
	if scheme, rest, ok := strings.Cut(value, " "); ok && len(rest) >= len(scheme) {
		secret = strings.TrimSpace(rest)
	}
	if len(secret) < shortestSecret {
		return nil
	}
	return &echo{secret: []byte(secret)}
}

// write takes the next piece of the body, and returns what of it and of earlier pieces may be passed on.
func (e *echo) write(piece []byte, end bool) ([]byte, error) {
	if e == nil {
		return piece, nil
	}
	most := len(e.secret) - 1
	seam := append(slices.Clip(e.tail), piece[:min(len(piece), most)]...)
	if bytes.Contains(seam, e.secret) || bytes.Contains(piece, e.secret) {
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

// begun is how much of the secret stands at the end of what came so far, or 0 where that is less than leastHeld.
func (e *echo) begun() int {
	for from := 0; ; from++ {
		i := bytes.Index(e.tail[from:], e.secret[:leastHeld])
		if i < 0 {
			return 0
		}
		if from += i; bytes.HasPrefix(e.secret, e.tail[from:]) {
			return len(e.tail) - from
		}
	}
}

// fields looks at header or trailer fields.
func (e *echo) fields(fields []web.Field) error {
	if e == nil {
		return nil
	}
	for _, f := range fields {
		if strings.Contains(f.Value, string(e.secret)) {
			return errEcho
		}
	}
	return nil
}
