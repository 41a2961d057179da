package web

import (
	"fmt"
	"slices"
)

// methods are those that every resource takes: of the IANA registry of HTTP methods (RFC 9110, section 16.1), less what is no
// request for a target (PRI, *) and what is refused by name ([Inspector.method]), and those that are in use without being
// registered: HTTP caches, UPnP, Icecast, Vault and Consul. What is in none of these a target may take for something else, or for
// GET, which policy cannot know; so a resource names it.
var methods = set(
	"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "QUERY",
	"ACL", "BASELINE-CONTROL", "BIND", "CHECKIN", "CHECKOUT", "COPY", "LABEL", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR",
	"MKCOL", "MKREDIRECTREF", "MKWORKSPACE", "MOVE", "ORDERPATCH", "PROPFIND", "PROPPATCH", "REBIND", "REPORT", "SEARCH", "UNBIND",
	"UNCHECKOUT", "UNLINK", "UNLOCK", "UPDATE", "UPDATEREDIRECTREF", "VERSION-CONTROL",
	"LIST", "PURGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "SOURCE",
)

// longestMethod is far more than any that is in use has.
const longestMethod = 64

// CheckMethod says why a method cannot be among those that a resource adds.
func CheckMethod(method string) error {
	switch {
	case !isMethod(method) || len(method) > longestMethod:
		return fmt.Errorf("is %q: write a method in upper case, such as PURGE", method)
	case slices.Contains([]string{"TRACE", "TRACK", "CONNECT", "PRI"}, method):
		return fmt.Errorf("is %s, which is refused, or is let through as an upgrade: see upgrades", method)
	}
	return nil
}

// known reports whether the resource takes the method. "TRACE" and "TRACK" are refused in words of their own.
func (o *Options) known(method string) bool {
	return methods[method] || slices.Contains(o.Methods, method) || method == "TRACE" || method == "TRACK"
}

// isMethod is true for a token without small letters: methods are case-sensitive, and a target that is not would read
// "delete" as DELETE.
func isMethod(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenByte[s[i]] || s[i] >= 'a' && s[i] <= 'z' {
			return false
		}
	}
	return s != ""
}
