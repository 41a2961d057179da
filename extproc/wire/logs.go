package wire

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Logs is what is read of an envoy.service.accesslog.v3.StreamAccessLogsMessage: entries of requests, or of connections.
type Logs struct{ Entries []Entry }

// Entry is one entry of the access log.
type Entry struct {
	Connection bool // it is of one, and else of a request

	Operation string // that [Metadata] named
	Trace     string // that the operation's agent sent
	Traced    bool   // Envoy has told which, if only that it sent none
	Session   string // that the connection is of, or was made for

	Route    string // of a request
	Tags     []Field
	Peer     string // who asked
	Upstream string // the target's address that was chosen, also where it got nothing
	Failure  string // of the connection to the target
	WireSent uint64 // bytes to the target
	Flags    Flags
	Duration time.Duration

	Verb, Authority, Path, RequestID string
	Details                          string // Envoy's words for the answer
	Status                           uint32
	BytesIn, BytesOut                uint64
}

// Tag returns the value of a custom tag.
func (e *Entry) Tag(name string) string { return under(name, e.Tags) }

// Flags are those of Envoy's ResponseFlags that are set, one bit for each by the number of its field.
type Flags uint64

// The flags that mean something here.
const (
	NoHealthyUpstream                Flags = 1 << 2
	UpstreamRequestTimeout           Flags = 1 << 3
	UpstreamRemoteReset              Flags = 1 << 5
	UpstreamConnectionFailure        Flags = 1 << 6
	UpstreamConnectionTermination    Flags = 1 << 7
	UpstreamOverflow                 Flags = 1 << 8
	NoRouteFound                     Flags = 1 << 9
	UnauthorizedDetails              Flags = 1 << 13
	DownstreamConnectionTermination  Flags = 1 << 15
	UpstreamRetryLimitExceeded       Flags = 1 << 16
	StreamIdleTimeout                Flags = 1 << 17
	DownstreamProtocolError          Flags = 1 << 19
	UpstreamMaxStreamDurationReached Flags = 1 << 20
	UpstreamProtocolError            Flags = 1 << 24
	NoClusterFound                   Flags = 1 << 25
	DNSResolutionFailure             Flags = 1 << 27
)

// Any reports whether one of some flags is set.
func (f Flags) Any(of Flags) bool { return f&of != 0 }

// String has the words of the access log's definition, in order; that a request was unauthorised is told with details, and is no flag.
func (f Flags) String() string {
	if f&^UnauthorizedDetails == 0 {
		return ""
	}
	var set []string
	fields := (*data.ResponseFlags)(nil).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); fd.Kind() == protoreflect.BoolKind && f.Any(1<<fd.Number()) {
			set = append(set, strings.ReplaceAll(string(fd.Name()), "_", " "))
		}
	}
	slices.Sort(set)
	return strings.Join(set, ", ")
}

// Unmarshal implements [Message]. It writes over the entries that were there.
func (l *Logs) Unmarshal(b []byte) error {
	l.Entries = l.Entries[:0]
	var odd bool
	if l.read(reader{b: b, of: logs, odd: &odd}); odd {
		return generated(b, &accesslog.StreamAccessLogsMessage{}, logsOf, l)
	}
	return nil
}

var logs = shapes{}.of((*accesslog.StreamAccessLogsMessage)(nil).ProtoReflect().Descriptor())

func (l *Logs) read(m reader) {
	for m.next() {
		if m.num != 2 && m.num != 3 { // http_logs, tcp_logs
			continue
		}
		for of := m.message(); of.next(); {
			if of.num != 1 { // log_entry
				continue
			}
			e := Entry{Connection: m.num == 3}
			if !e.Connection {
				e.Verb = verb(0)
			}
			e.read(of.message())
			l.Entries = append(l.Entries, e)
		}
	}
}

func (e *Entry) read(m reader) {
	for m.next() {
		switch {
		case m.num == 1: // common_properties
			e.common(m.message())
		case m.num == 2 && e.Connection: // connection_properties
			for c := m.message(); c.next(); {
				switch c.num {
				case 1: // received_bytes
					e.BytesIn = c.number
				case 2: // sent_bytes
					e.BytesOut = c.number
				}
			}
		case m.num == 3: // request
			e.request(m.message())
		case m.num == 4: // response
			e.response(m.message())
		}
	}
}

func (e *Entry) common(m reader) {
	for m.next() {
		switch m.num {
		case 2: // downstream_remote_address
			e.Peer = address(m.message())
		case 13: // upstream_remote_address
			e.Upstream = address(m.message())
		case 16: // response_flags
			for f := m.message(); f.next(); {
				if bit := Flags(1) << f.num; bit == UnauthorizedDetails || f.flag() {
					e.Flags |= bit
				}
			}
		case 17: // metadata
			e.metadata(m.message())
		case 18: // upstream_transport_failure_reason
			e.Failure = m.text()
		case 19: // route_name
			e.Route = m.text()
		case 22: // custom_tags
			e.Tags = append(e.Tags, entry(m.message()))
		case 23: // duration
			var d durationpb.Duration
			for p := m.message(); p.next(); {
				switch p.num {
				case 1:
					d.Seconds = int64(p.number)
				case 2:
					d.Nanos = int32(p.number)
				}
			}
			e.Duration = d.AsDuration()
		case 31: // upstream_wire_bytes_sent
			e.WireSent = m.number
		}
	}
}

func (e *Entry) request(m reader) {
	for m.next() {
		switch m.num {
		case 1: // request_method
			e.Verb = verb(core.RequestMethod(int32(m.number)))
		case 3: // authority
			e.Authority = m.text()
		case 5: // path
			e.Path = m.text()
		case 9: // request_id
			e.RequestID = m.text()
		case 12: // request_body_bytes
			e.BytesIn = m.number
		}
	}
}

func (e *Entry) response(m reader) {
	for m.next() {
		switch m.num {
		case 1: // response_code
			for v := m.message(); v.next(); {
				if v.num == 1 {
					e.Status = uint32(v.number)
				}
			}
		case 3: // response_body_bytes
			e.BytesOut = m.number
		case 6: // response_code_details
			e.Details = m.text()
		}
	}
}

// verb is what Envoy calls a method.
func verb(m core.RequestMethod) string {
	if name, ok := core.RequestMethod_name[int32(m)]; ok {
		return name
	}
	return strconv.Itoa(int(m))
}

// namespaces are where [Metadata] ends up, the first that has it: ext_proc writes into our namespace, ext_authz into its own.
var namespaces = []string{MetadataNamespace, "envoy.filters.http.ext_authz", "envoy.filters.network.ext_authz"}

// MetadataNamespace is the namespace of the dynamic metadata that tells Envoy's access log the operation's id (`op`), or that of the
// session whose connection it is (`session`).
const MetadataNamespace = "countersign"

// metadata finds the operation, and the session.
func (e *Entry) metadata(m reader) {
	var found [3]struct{ op, trace, session value }
	for m.next() {
		if m.num != 1 { // filter_metadata
			continue
		}
		at := -1
		var op, trace, session value
		for p := m.message(); p.next(); {
			switch p.num {
			case 1:
				at = slices.IndexFunc(namespaces, func(n string) bool { return n == string(p.value) })
			case 2:
				for s := p.message(); s.next(); {
					name, v := member(s)
					switch string(name) {
					case "op":
						op = v
					case "trace_id":
						trace = v
					case "session":
						session = v
					}
				}
			}
		}
		if at >= 0 {
			found[at].op, found[at].trace, found[at].session = op, trace, session
		}
	}
	e.Session = found[0].session.text // nobody else names one
	for _, f := range found {
		if f.op.text != "" {
			e.Operation, e.Trace, e.Traced = f.op.text, f.trace.text, f.trace.there
			return
		}
	}
}

// logsOf takes what is read out of a message that the generated decoder has read.
func logsOf(m *accesslog.StreamAccessLogsMessage) Logs {
	var l Logs
	for _, of := range m.GetHttpLogs().GetLogEntry() {
		e, q, r := entryOf(of.GetCommonProperties()), of.GetRequest(), of.GetResponse()
		e.Verb, e.Authority, e.Path, e.RequestID = verb(q.GetRequestMethod()), q.GetAuthority(), q.GetPath(), q.GetRequestId()
		e.Details, e.Status = r.GetResponseCodeDetails(), r.GetResponseCode().GetValue()
		e.BytesIn, e.BytesOut = q.GetRequestBodyBytes(), r.GetResponseBodyBytes()
		l.Entries = append(l.Entries, e)
	}
	for _, of := range m.GetTcpLogs().GetLogEntry() {
		e := entryOf(of.GetCommonProperties())
		e.Connection = true
		e.BytesIn, e.BytesOut = of.GetConnectionProperties().GetReceivedBytes(), of.GetConnectionProperties().GetSentBytes()
		l.Entries = append(l.Entries, e)
	}
	return l
}

func entryOf(c *data.AccessLogCommon) Entry {
	e := Entry{
		Route: c.GetRouteName(), Peer: addressOf(c.GetDownstreamRemoteAddress()), Upstream: addressOf(c.GetUpstreamRemoteAddress()),
		Failure: c.GetUpstreamTransportFailureReason(), WireSent: c.GetUpstreamWireBytesSent(), Duration: c.GetDuration().AsDuration(),
	}
	c.GetResponseFlags().ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		e.Flags |= 1 << fd.Number()
		return true
	})
	for name, value := range c.GetCustomTags() {
		e.Tags = append(e.Tags, Field{Name: name, Value: value})
	}
	e.Session = valueOf(c.GetMetadata().GetFilterMetadata()[MetadataNamespace].GetFields()["session"]).text
	for _, namespace := range namespaces {
		said := c.GetMetadata().GetFilterMetadata()[namespace].GetFields()
		if op, trace := valueOf(said["op"]), valueOf(said["trace_id"]); op.text != "" {
			e.Operation, e.Trace, e.Traced = op.text, trace.text, trace.there
			break
		}
	}
	return e
}

// address reads a config.core.v3.Address as HOST:PORT, or the path of a socket.
func address(m reader) (text string) {
	for m.next() {
		switch m.num {
		case 1: // socket_address
			var host string
			var port uint64
			for s := m.message(); s.next(); {
				switch s.num {
				case 2: // address
					host = s.text()
				case 3: // port_value
					port = s.number
				}
			}
			text = hostPort(host, uint32(port))
		case 2: // pipe
			text = "unix:"
			for p := m.message(); p.next(); {
				if p.num == 1 { // path
					text += p.text()
				}
			}
		}
	}
	return text
}

func addressOf(a *core.Address) string {
	switch a := a.GetAddress().(type) {
	case *core.Address_SocketAddress:
		return hostPort(a.SocketAddress.GetAddress(), a.SocketAddress.GetPortValue())
	case *core.Address_Pipe:
		return "unix:" + a.Pipe.GetPath()
	default:
		return ""
	}
}

func hostPort(host string, port uint32) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
