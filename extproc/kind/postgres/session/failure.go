package session

import (
	"strconv"
	"strings"

	"github.com/countersign/countersign/extproc/gate"
)

// The SQLSTATEs of what the gateway itself says. Those that begin with CS are its own.
const (
	codeDenied         = "42501" // insufficient_privilege
	codeUnidentified   = "28000" // invalid_authorization_specification
	codePending        = "CS001" // people are being asked
	codeWithheld       = "CS002"
	codeUnavailable    = "CS003"
	codeLimit          = "CS004"
	codeTooManySession = "53300" // too_many_connections
	codeCancelled      = "57014" // query_canceled
	codeStopping       = "57P01" // admin_shutdown
	codeIdle           = "57P05" // idle_session_timeout
	codeTooLarge       = "54000" // program_limit_exceeded
	codeProtocol       = "08P01" // protocol_violation
	codeUnsupported    = "0A000" // feature_not_supported
	codeFailed         = "25P02" // in_failed_sql_transaction
)

// failure is what an ErrorResponse says.
type failure struct {
	fatal                       bool // the session ends with it
	code, message, detail, hint string
	position                    int // in the text, in characters from 1; 0 where it has none
}

func (f *failure) Error() string { return f.message }

// bytes is f as an ErrorResponse.
func (f *failure) bytes() []byte { return f.appendAs(nil, 'E', f.severity()) }

// appendNotice writes f as a NoticeResponse.
func (f *failure) appendNotice(b []byte) []byte { return f.appendAs(b, 'N', "NOTICE") }

func (f *failure) severity() string {
	if f.fatal {
		return "FATAL"
	}
	return "ERROR"
}

func (f *failure) appendAs(b []byte, kind byte, severity string) []byte {
	var body []byte
	position := ""
	if f.position > 0 {
		position = strconv.Itoa(f.position)
	}
	for _, field := range []struct {
		of    byte
		value string
	}{{'S', severity}, {'V', severity}, {'C', f.code}, {'M', f.message}, {'D', f.detail}, {'H', f.hint}, {'P', position}} {
		if field.value != "" {
			body = append(append(append(body, field.of), strings.ReplaceAll(strings.ToValidUTF8(field.value, "\uFFFD"), "\x00", "\uFFFD")...), 0)
		}
	}
	return appendMessage(b, kind, append(body, 0))
}

// ended makes f one that the session ends with.
func (f *failure) ended() *failure {
	f.fatal = true
	return f
}

// refused is what the agent is told of a refusal. Detail and hint name the request, so that whoever runs the gateway finds its records.
func refused(r gate.Refusal, request string) *failure {
	f := &failure{code: codeOf(r.Problem), message: r.Problem.Title(), detail: inSQL.Replace(r.Detail), hint: hintOf(r.Problem)}
	if len(r.Rules) > 0 {
		f.detail += " Rules: " + strings.Join(r.Rules, ", ") + "."
	}
	if r.Approval != nil && r.Approval.ID != "" {
		f.detail += " Approval " + r.Approval.ID + "."
		if r.Approval.URL != "" {
			f.detail += " People answer it at " + r.Approval.URL + "."
		}
	}
	f.detail = strings.TrimSpace(f.detail) + " (request " + request + ")"
	f.hint = f.hint + " (request " + request + ")"
	return f
}

// inSQL says what is said of any protocol in the words of this one.
var inSQL = strings.NewReplacer("identical request", "identical statement", "A request that differs", "A statement that differs")

func codeOf(p gate.Problem) string {
	switch p {
	case gate.Unauthenticated:
		return codeUnidentified
	case gate.ApprovalPending:
		return codePending
	case gate.Withheld:
		return codeWithheld
	case gate.Unavailable:
		return codeUnavailable
	case gate.TooLarge:
		return codeTooLarge
	default:
		return codeDenied
	}
}

func hintOf(p gate.Problem) string {
	switch p {
	case gate.Unauthenticated:
		return "Get a new token, and connect again with it."
	case gate.ApprovalPending:
		return "Send the identical statement again once somebody has approved it."
	case gate.Unavailable:
		return "Nothing was done. Try again later."
	case gate.TooLarge:
		return "Send less at a time."
	case gate.ApprovalUnavailable:
		return "Tell the person whom you work for: nobody could be asked."
	case gate.Unreadable:
		return "Write the statement in a way that leaves no doubt about what it does."
	default:
		return "Do something that policy allows, or ask whoever runs the gateway for a rule."
	}
}
