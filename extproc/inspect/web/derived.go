package web

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// addedPattern is a name of header fields, or a prefix of names that ends with "-*".
var addedPattern = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*(-\*)?$`)

// CheckAdded says why a name or prefix cannot be one of the fields that a resource lets pass with a redacted answer, or
// returns nil.
func CheckAdded(element string) error {
	prefix, all := strings.CutSuffix(element, "*")
	switch {
	case !addedPattern.MatchString(element):
		return fmt.Errorf("is %q: write a field's name in small letters, or a prefix that ends with -*", element)
	case all && slices.ContainsFunc(derivedFields, func(n string) bool { return strings.HasPrefix(n, prefix) }):
		return fmt.Errorf("is %q, which has fields that tell of the answer before redaction: name those that are meant", element)
	case Derived(element):
		return fmt.Errorf("is %q, which tells of the answer before redaction", element)
	case carryingFields[element] || strings.HasPrefix(element, "x-envoy-") || strings.HasPrefix(element, "proxy-"):
		return fmt.Errorf("is %q, which is not the target's to say: Envoy writes it, or it is a credential (see cookies)", element)
	}
	return nil
}

// Derived reports whether a field, by its name, is computed from the bytes of the body (a length, a digest, a validator, a
// part), so that it is wrong once they change.
func Derived(name string) bool {
	return slices.Contains(derivedFields, strings.TrimSuffix(name, "*")) || derivedShape.MatchString(name)
}

var derivedShape = regexp.MustCompile(`etag|digest|checksum|signature|md5|sha-?\d|sha$|crc|hash|(^|-)(content|file|object|body|original|uncompressed|decoded|blob)-?(length|size|range)|-meta(-|$)`)

var derivedFields = []string{
	"etag", "last-modified", "content-length", "content-md5", "content-digest", "repr-digest", "want-digest", "digest", "accept-ranges",
	"content-range", "content-encoding", "signature", "signature-input", "delta-base", "im", "x-amz-meta-", "x-amz-checksum-", "x-amz-version-id",
	"x-ms-meta-", "x-ms-blob-content-", "x-ms-content-", "x-goog-meta-", "x-goog-hash", "x-goog-stored-content-", "x-goog-generation",
	"x-bz-content-sha1", "docker-content-digest", "x-oss-hash-crc64ecma", "x-content-sha256", "x-linked-etag", "x-file-size",
}

// carryingFields say how an answer is carried, or carry a credential.
var carryingFields = set(
	"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade", "host", "server", "via",
	"set-cookie", "set-cookie2", "authorization", "cookie",
)
