package extproc

import (
	"errors"
	"io"
	"sync"

	"github.com/countersign/countersign/extproc/guard"
	"github.com/countersign/countersign/extproc/wire"
)

// outgoing are the messages of an exchange that wait to be sent to Envoy. A send can block for as long as Envoy does not read, so
// none is made under the exchange's lock: whoever has that puts a message in a line, and one goroutine sends.
//
// The two directions do not wait for each other, as in HTTP: a target may answer before it has the whole request, and the answer
// passes what is left of that. So there is a line for each, and they take turns.
//
// Both are bounded. Of a streamed body another piece is taken from Envoy when no more than waitingBytes wait in its line, and Envoy
// then stops the client, or the target. A body that was read whole waits here, without a copy. All of it is in
// the operation's share of limits.memory.
type outgoing struct {
	request, answer line
	last            *line      // whose message was sent last
	sending         bool       // a goroutine sends
	tight           bool       // there is no memory for what waits
	failed          bool       // a send panicked, and the agent was refused for it
	err             error      // why nothing more is sent: a send failed, or the stream is over
	moved           *sync.Cond // on the exchange's lock: a message was sent, or none will be
}

type line struct {
	messages []message
	bytes    int64 // of bodies
	busy     bool  // a message of it is being sent
}

// sent reports whether nothing of it waits any more.
func (l *line) sent() bool { return len(l.messages) == 0 && !l.busy }

type message struct {
	*wire.Answer
	bytes int64
}

// waitingBytes is how much of a streamed body may wait in its line before another piece is taken.
const waitingBytes = maxPiece

// say has a message sent to Envoy, after those that are in its line. bytes are those of a body. The caller has mu.
func (x *exchange) say(in *line, m *wire.Answer, bytes int) {
	if x.out.err != nil {
		return
	}
	in.messages = append(in.messages, message{m, int64(bytes)})
	x.waiting(in, int64(bytes))
	if !x.out.sending {
		x.out.sending = true
		go guard.Func("messages to Envoy", x.send)()
	}
}

// waiting counts what waits in a line.
func (x *exchange) waiting(in *line, change int64) {
	in.bytes += change
	if x.attempt != nil && change != 0 {
		x.out.tight = !x.attempt.waits(x.out.request.bytes + x.out.answer.bytes)
	}
}

// send sends what waits until nothing does.
func (x *exchange) send() {
	x.mu.Lock()
	defer x.mu.Unlock()
	defer func() {
		x.out.sending = false
		x.out.moved.Broadcast()
	}()
	for in := x.out.next(); in != nil; in = x.out.next() {
		m := in.messages[0]
		in.messages[0] = message{}
		in.messages = in.messages[1:]
		x.out.last, in.busy = in, true
		x.transmit(in, m)
		in.busy = false
		x.record()
		x.out.moved.Broadcast()
	}
}

// transmit sends one message, without the lock. Where that fails nothing else is sent. Where it panics the operation is refused in the
// place of what else was to be said, and Envoy ends the stream after that; one that is on record has nothing to say any more.
func (x *exchange) transmit(in *line, m message) {
	err := errFailed
	func() {
		x.mu.Unlock()
		defer x.mu.Lock()
		defer guard.Catch("a message to Envoy", nil)
		err = x.stream.SendMsg(m.Answer)
	}()
	x.waiting(in, -m.bytes)
	if err == nil {
		return
	}
	x.drop(&x.out.request)
	x.drop(&x.out.answer)
	if errors.Is(err, errFailed) && !x.out.failed {
		x.out.failed = true
		_, err = x.failed()
	}
	x.out.err = err
}

// drop has nothing sent of what waits in a line.
func (x *exchange) drop(in *line) {
	var bytes int64
	for _, m := range in.messages {
		bytes += m.bytes
	}
	in.messages = nil
	x.waiting(in, -bytes)
}

// next is the line whose turn it is, or nil.
func (o *outgoing) next() *line {
	first, second := &o.answer, &o.request
	if o.last == first {
		first, second = second, first
	}
	for _, in := range []*line{first, second} {
		if len(in.messages) > 0 {
			return in
		}
	}
	return nil
}

// room waits until another message of the direction may be answered, and returns why none can be. The caller has mu; others may take it
// meanwhile.
func (x *exchange) room(in *line) error {
	for (in.bytes > waitingBytes || in.bytes > 0 && x.out.tight) && x.out.err == nil {
		x.out.moved.Wait()
	}
	return x.out.err
}

// finishSending waits until what is left of the answer has been sent. Nothing of the request is sent any more, and nothing else is
// after it. It returns why not all could be sent: Envoy lets a request go on whose stream ends well.
func (x *exchange) finishSending() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.drop(&x.out.request)
	for x.out.sending {
		x.out.moved.Wait()
	}
	err := x.out.err
	x.out.err = io.EOF
	x.out.moved.Broadcast()
	return err
}
