package http

import (
	"errors"
	"fmt"

	"github.com/countersign/countersign/extproc"
	"github.com/countersign/countersign/extproc/gate"
	"github.com/countersign/countersign/extproc/inspect/cookie"
	"github.com/countersign/countersign/extproc/inspect/web"
)

// reading is what requests of a resource are read by.
type reading struct {
	web.Options
	sessions bool   // cookies are sealed: see package cookie
	secret   []byte // that they are sealed with
}

func (r *reading) reader(resource string) extproc.Reader {
	return &reader{web.New(r.Options), r, resource}
}

// reader reads one request.
type reader struct {
	*web.Inspector
	by       *reading
	resource string
}

// Head reads the header fields.
func (r *reader) Head(fields []web.Field) (extproc.Head, error) {
	err := r.Inspector.Head(fields)
	seen := r.Seen()
	return extproc.Head{Verb: seen.Method, Target: seen.Path, Streams: r.Streams()}, err
}

// Write takes a piece of the body.
func (r *reader) Write(piece []byte) error {
	if r.Seen().BodyBytes == 0 {
		return r.Take(piece)
	}
	return r.Inspector.Write(piece)
}

// Request reads the whole. Until it is known what a compressed body stands for, that counts as the most that it can be.
func (r *reader) Request(agent *gate.Principal, room func(bytes int64) bool) (*extproc.Request, error) {
	if most := r.Decoding(); most > 0 {
		if !room(most) {
			return nil, errNoRoom
		}
		if err := r.Decode(); err != nil {
			return nil, err
		}
	}
	if !room(r.Weight()) {
		return nil, errNoRoom
	}
	seen, err := r.Inspector.Request()
	if err != nil {
		return nil, err
	}
	if seen.HasField("access_token") {
		return nil, &web.Error{Problem: gate.Unreadable, Detail: "The request has an access token in its body beside the one in its header. Send one, as Authorization: Bearer."}
	}
	body := r.Body()
	out := &extproc.Request{
		Detail: seen, Approval: seen.Approval,
		Remove: r.Remove(), Body: extproc.Body{From: extproc.InMemory(body), Size: int64(len(body))},
		Scheme: seen.Scheme, Authority: seen.Authority, Target: seen.Target,
		Redacted: func() ([]string, error) { return redacted(seen) },
	}
	return out, r.openCookies(agent, seen, out)
}

var errNoRoom = errors.New("there is no room for the request")

// openCookies opens what the agent sent, for the target. It is before policy is asked: what cannot be opened is no cookie of
// this agent's, and to leave it out would make another request of this one.
func (r *reader) openCookies(agent *gate.Principal, seen *web.Request, out *extproc.Request) error {
	value, _ := seen.Headers.Get("cookie")
	fields, _ := value.([]string)
	if !r.by.sessions || len(fields) == 0 {
		return nil
	}
	opened, values, err := cookie.NewBox(r.by.secret, r.resource, agent.Issuer, agent.Subject).Open(fields)
	var unknown *cookie.Unknown
	if errors.As(err, &unknown) {
		return &web.Error{Problem: gate.Unreadable, Detail: fmt.Sprintf("The request has a cookie %q that this gateway did not give to this agent for this resource, so it was refused. Nothing was done. Leave it out, and begin a session at the target again if one is needed.", unknown.Name)}
	}
	if opened != "" {
		out.Set = append(out.Set, web.Field{Name: "cookie", Value: opened})
	}
	out.Secrets = values
	return err
}

// redacted lists the fields without which a target answers whole, where that does not make another request of this one.
func redacted(r *web.Request) (remove []string, err error) {
	if name, found := r.Condition(); found {
		return nil, &gate.Unfit{Problem: gate.Denied, Detail: fmt.Sprintf(
			"Policy redacts the answer to this operation, so whether the condition in the field %q holds must not show, and without it the request would be another. Nothing was done. Send the request without the condition.", name)}
	}
	for _, f := range r.Headers {
		if web.RemovedForRedaction(r.Method, f.Name) {
			remove = append(remove, f.Name)
		}
	}
	return remove, nil
}
