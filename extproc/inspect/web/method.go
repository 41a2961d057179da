package web

import (
	"fmt"
	"slices"
)

// methods are those that every resource accepts. They are the IANA registry of HTTP methods (RFC 9110, section 16.1) without
// PRI and *, which are no requests for a target, and TRACE, which [Inspector.method] refuses; and those that HTTP caches,
// UPnP, Icecast, Vault and Consul use unregistered. A target may take any other method for GET or for something else, which
// policy cannot know, so a resource has to name it.
var methods = set(
	"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "QUERY",
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR",
	"MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND", "PROPPATCH", "REBIND", "REPORT", "SEARCH", "UNBIND",
	"UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
	"LIST", "PURGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "SOURCE",
)

// longestMethod is far longer than any method in use.
const longestMethod = 64

// CheckMethod says why a method cannot be one that a resource adds, or returns nil.
func CheckMethod(method string) error {
	switch {
	case !isMethod(method) || len(method) > longestMethod:
		return fmt.Errorf("is %q: write a method in upper case, such as PURGE", method)
	case slices.Contains([]string{"TRACE", "TRACK", "CONNECT", "PRI"}, method):
		return fmt.Errorf("is %s, which is refused, or is let through as an upgrade: see upgrades", method)
	}
	return nil
}

// known reports whether the resource accepts the method. TRACE and TRACK count as known: [Inspector.method] says better why
// they are refused.
func (o *Options) known(method string) bool {
	return methods[method] || slices.Contains(o.Methods, method) || method == "TRACE" || method == "TRACK"
}

// isMethod reports whether s is a token without small letters. Methods are case-sensitive, but a target that ignores case
// would read "delete" as DELETE.
func isMethod(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenByte[s[i]] || s[i] >= 'a' && s[i] <= 'z' {
			return false
		}
	}
	return s != ""
}
