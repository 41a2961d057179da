package extproc

import (
	"context"

	"github.com/countersign/countersign/extproc/inspect/web"
	"github.com/countersign/countersign/extproc/lane"
)

// perHeadByte is what each byte of a head takes, as field, as input and as policy's value.
const perHeadByte = 4

// admit begins the account of a request whose agent is known. It is false where there is no room for it, and then it is refused.
func (a *attempt) admit(ctx context.Context, fields []web.Field) bool {
	a.Admit()
	a.light = lane.Bytes + weighFields(fields)
	return a.take(ctx, a.light)
}

// trailers takes trailer fields into the account.
func (a *attempt) trailers(ctx context.Context, fields []web.Field) bool {
	n := weighFields(fields)
	a.light += n
	return a.take(ctx, a.Share.Taken()+n)
}

func weighFields(fields []web.Field) (n int64) {
	for _, f := range fields {
		n += perHeadByte * int64(len(f.Name)+len(f.Value))
	}
	return n
}

// take makes the request's share of the memory n bytes, or refuses it.
func (a *attempt) take(ctx context.Context, n int64) bool {
	refusal, ok := a.Room(n)
	return ok || a.refuse(ctx, refusal)
}

// forward is called when the request is sent on: nothing of what was judged lives as long as the answer, which can stream for
// hours.
func (a *attempt) forward() {
	a.Again()
	a.Op.Detail, a.reader, a.request = nil, nil, nil
	if a.light = lane.Bytes; a.plan != nil || a.turning != nil {
		a.light += answerBytes
	}
	a.Share.Set(a.light + a.waiting)
}

// waits counts n bytes that wait to be sent to Envoy. It is false where there is no room for them.
func (a *attempt) waits(n int64) bool {
	a.waiting = n
	return a.Share.Set(a.light + n)
}

// What an answer takes while it is redacted: the least, and the most, which one is counted with that holds a value of more than
// the least: a text that a detector reads is there a few times ([redact.Options]). There is nothing in between, because what
// is kept depends on what is redacted, and must not be measured by filling the rest.
const (
	answerBytes      = 256 << 10
	largeAnswerBytes = 8 << 20
)

// redacts makes room for an answer that is redacted, or in which URLs are turned, of which n bytes are kept.
func (a *attempt) redacts(n int) bool {
	light := lane.Bytes + a.decoding + answerBytes
	if n > answerBytes {
		light = lane.Bytes + a.decoding + largeAnswerBytes
	}
	if !a.Share.Set(light + a.waiting) {
		return false
	}
	a.light = light
	return true
}

// errNoMemory withholds an answer of which too much has to be kept to redact it.
var errNoMemory = &web.Withheld{Reason: "to redact the target's answer takes more memory than the gateway has left, with what else is being judged"}
