package extproc

import (
	"github.com/countersign/countersign/extproc/inspect/coding"
	"github.com/countersign/countersign/extproc/inspect/echo"
)

// within looks for the target's credential in an answer that passes in its coding, as some targets encode whatever they are asked.
// The bytes pass as they came, when it is known what they say. What cannot be decoded any more is not looked into.
type within struct {
	decoder *coding.Decoder // nil once the answer cannot be decoded
	echo    *echo.Finder    // of what is decoded
	kept    []byte          // came, and ends with what may be the beginning of the credential
}

// looksWithin makes ready to look into an answer that is not decoded for another reason. A coding that nobody here knows passes.
func (x *exchange) looksWithin() error {
	r := &x.response
	codings, err := r.head.Codings()
	if err != nil || len(codings) == 0 || r.echo == nil {
		return nil //nolint:nilerr // see above
	}
	if x.attempt.decoding = coding.Memory(codings...); !x.attempt.redacts(0) {
		return errNoMemory
	}
	r.within = &within{decoder: coding.NewDecoder(codings), echo: echo.New(r.echo.Forms)}
	return nil
}

// write takes the next bytes as they came, and returns what may pass by now. Once found is true nothing more may.
func (w *within) write(came []byte, whole bool) (out []byte, found bool) {
	if w == nil || w.decoder == nil {
		return came, false
	}
	for piece, unread := range w.decoder.Decode(came, whole) {
		if unread != nil { // nor can the agent
			w.close()
			break
		}
		if _, found = w.echo.Write(piece, false); found {
			return nil, true
		}
	}
	out = append(w.kept, came...)
	if w.kept = nil; w.decoder != nil && !whole && w.echo.Keeps() {
		w.kept, out = out, nil
	}
	return out, len(w.kept) > maxPiece // nothing makes that much of so little
}

// close ends the decoder.
func (w *within) close() {
	if w != nil {
		w.decoder.Close()
		w.decoder = nil
	}
}
