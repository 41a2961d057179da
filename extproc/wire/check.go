package wire

import (
	"bytes"
	"strings"

	authz "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// Check is what is read of an envoy.service.auth.v3.CheckRequest.
type Check struct {
	HTTP       bool    // it is about a request, and else about a connection
	Fields     []Field // pseudo-header and header fields of a request
	Body       []byte  // that Envoy sends along
	Extensions []Field // of the route: what Envoy's configuration says with each request

	Peer, Local string // addresses of who asks, and of where
	Certificate string // of who connects, as Envoy writes it
	ServerName  string // that their TLS named
}

// Extension returns what Envoy's configuration says under a name.
func (c *Check) Extension(name string) string { return under(name, c.Extensions) }

// Unmarshal implements [Message].
func (c *Check) Unmarshal(b []byte) error {
	*c = Check{}
	var odd bool
	if c.read(reader{b: b, of: checks, odd: &odd}); odd {
		return generated(b, &authz.CheckRequest{}, checkOf, c)
	}
	return nil
}

var checks = shapes{}.of((*authz.CheckRequest)(nil).ProtoReflect().Descriptor())

func (c *Check) read(m reader) {
	for m.next() {
		if m.num == 1 { // attributes
			c.attributes(m.message())
		}
	}
}

func (c *Check) attributes(m reader) {
	for m.next() {
		switch m.num {
		case 1: // source
			for p := m.message(); p.next(); {
				switch p.num {
				case 1: // address
					c.Peer = address(p.message())
				case 5: // certificate
					c.Certificate = p.text()
				}
			}
		case 2: // destination
			for p := m.message(); p.next(); {
				if p.num == 1 { // address
					c.Local = address(p.message())
				}
			}
		case 4: // request
			for r := m.message(); r.next(); {
				if r.num == 2 { // http
					c.http(r.message())
				}
			}
		case 10: // context_extensions
			c.Extensions = append(c.Extensions, entry(m.message()))
		case 12: // tls_session
			for t := m.message(); t.next(); {
				if t.num == 1 { // sni
					c.ServerName = t.text()
				}
			}
		}
	}
}

func (c *Check) http(m reader) {
	c.HTTP = true
	c.Fields = append(make([]Field, 0, 24), pseudo...)
	var text, raw []byte
	for m.next() {
		switch m.num {
		case 2: // method
			c.Fields[0].Value = m.text()
		case 3: // headers, where encode_raw_headers is off: Envoy has joined values, and their order is lost
			m.stop()
		case 4: // path
			c.Fields[3].Value = m.text()
		case 5: // host
			c.Fields[2].Value = m.text()
		case 6: // scheme
			c.Fields[1].Value = m.text()
		case 11: // body
			text = m.value
		case 12: // raw_body
			raw = m.value
		case 13: // header_map
			c.Fields = withoutPseudo(headerMap(m.message(), c.Fields))
		}
	}
	if len(raw) == 0 {
		raw = text
	}
	c.Body = bytes.Clone(raw)
}

var pseudo = []Field{{Name: ":method"}, {Name: ":scheme"}, {Name: ":authority"}, {Name: ":path"}}

// withoutPseudo removes the pseudo-header fields but [pseudo], which Envoy tells of beside the fields too, and :protocol.
func withoutPseudo(fields []Field) []Field {
	kept := fields[:len(pseudo)]
	for _, f := range fields[len(pseudo):] {
		if !strings.HasPrefix(f.Name, ":") || f.Name == ":protocol" {
			kept = append(kept, f)
		}
	}
	return kept
}

// checkOf takes what is read out of a message that the generated decoder has read.
func checkOf(m *authz.CheckRequest) Check {
	a := m.GetAttributes()
	c := Check{
		HTTP: a.GetRequest().GetHttp() != nil,
		Peer: addressOf(a.GetSource().GetAddress()), Local: addressOf(a.GetDestination().GetAddress()),
		Certificate: a.GetSource().GetCertificate(), ServerName: a.GetTlsSession().GetSni(),
	}
	for name, value := range a.GetContextExtensions() {
		c.Extensions = append(c.Extensions, Field{Name: name, Value: value})
	}
	h := a.GetRequest().GetHttp()
	if h == nil {
		return c
	}
	c.Fields = append(c.Fields, pseudo...)
	c.Fields[0].Value, c.Fields[1].Value, c.Fields[2].Value, c.Fields[3].Value = h.GetMethod(), h.GetScheme(), h.GetHost(), h.GetPath()
	if raw := h.GetHeaderMap(); raw != nil {
		c.Fields = append(c.Fields, fieldsOf(raw)...)
	} else {
		for name, value := range h.GetHeaders() {
			c.Fields = append(c.Fields, Field{Name: name, Value: value})
		}
	}
	c.Fields = withoutPseudo(c.Fields)
	if c.Body = h.GetRawBody(); len(c.Body) == 0 {
		c.Body = []byte(h.GetBody())
	}
	return c
}
