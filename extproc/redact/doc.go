// Package redact takes protected values out of answers as they stream by: JSON, sequences of JSON, event streams and text.
// It does no I/O and starts no goroutine: bytes in, bytes out. A [Plan] is compiled once from what policy said and shared;
// a [Stream] is one body.
//
// # What it is trusted with
//
// A value that a path names never leaves, nor does its length, its type or the white space around it: two bodies that
// differ only there become the same bytes (FuzzNonInterference). What cannot be read with certainty is not sent: the
// stream ends in a [Withheld]. That holds for invalid JSON, duplicate names, invalid UTF-8, unpaired surrogates, a byte
// order mark, data after the value, other charsets, unknown content types and everything over a limit of [Options].
//
// The limits are about what is not protected and what is written, so that none tells of a protected value: that may be of
// any length, depth and number (TestNoLimitTellsOfAProtectedValue). What detectors find may double a string, a line or an
// event of text; one that they make twice as long as its limit is withheld all the same. Whether a protected value is valid
// JSON shows too. Content codings are the caller's matter, and so is when bytes are sent: how output is cut into writes
// follows the input. What is written before an error does not.
//
// Detectors are a net below that, for values that nobody expected in a place. They find what is written in the usual
// ways (next section), and can be wrong both ways. Where a value must not pass, name its path.
//
// # Paths
//
// Paths are this subset of RFC 9535: `$`, `.name`, `['name']`, `["name"]`, `.*`, `[*]`, `[n]` with n of 0 or more, `..name`,
// `..['name']`. In a sequence (NDJSON, event stream, a body of JSON with several values on lines of their own, as Kubernetes sends
// where it is watched) `$` is each value. A path is matched on decoded names, so "\u0073sn" is
// ssn. All paths of a plan run as one automaton, whose set of states is a row of words for each open object or array.
//
// What stands in the place of the value: `mask` the string "[redacted]" whatever it was; `null` null; `remove` nothing, with its
// name and comma; `token` "tok_" and 32 hex digits of HMAC-SHA-256 over the canonical form (RFC 8785, with exact numbers)
// of the whole value, so that equal values have equal tokens: that tells who sees two of them whether they are equal. It
// needs the value in memory, so that of one with more than 64 KiB (or Options.MaxToken), or without a canonical form, is made of
// its spelling, and looks like any other. Where several apply, the one that tells least wins: remove, null,
// mask, token. Nothing looks inside a value that is replaced, and names may stand twice in it.
//
// # URLs
//
// A plan can have paths of URLs too. A string there, if it is not redacted, becomes what [Options].Turn makes of it. Where a plan
// has nothing else every byte is copied but for these, and nothing is withheld: what cannot be read passes as it came, of an event
// stream that event only, and [Stream.Unread] says so.
//
// # Beside the body
//
// A target may repeat a value of the body elsewhere, in a Location or in an event's id. [Options].Beside has such texts, and
// [Stream.Repeats] tells which of them hold a value that was taken (its strings and numbers, and what detectors found): as it
// stands, percent-encoded once or twice, in base64 or hexadecimal, in letters of either case. Not found are values of one or
// two bytes, and of up to five within a word; true, false and null; names of members; a part of a value, another spelling
// of it (987654320, a hash), and what the rest of the body says.
//
// # Detectors
//
//   - email: an address with a domain of two labels or more, in any script; also with %40, as in URLs; also quoted.
//   - card: 13 to 19 digits in groups with single spaces, dashes or dots, with a known issuer range and length and the
//     Luhn digit. The digits in groups beside it go too.
//   - iban: a country of the registry, its length, its check digits; spaces and dashes allowed.
//   - ssn: US numbers as AAA-GG-SSSS with dashes, spaces or dots; nine digits that stand alone in a value or cell, or
//     after "ssn" or "social security". Numbers that are never given (area 000 and 666) are not.
//   - key: armored private keys; keys of AWS, GitHub, GitLab, Slack, Google, Stripe, OpenAI, Anthropic, npm, PyPI and
//     others by their form; name and password in a URL; values labelled password=, client_secret=, sig= and the like.
//   - token: JWTs (signed, encrypted, unsigned); what follows Bearer and Basic; access_token= and the like.
//
// They look at decoded strings, at member names, and (card, ssn) at the digits of numbers, whatever the exponent. They do
// not see: full-width or other non-ASCII digits, other encodings inside a string (base64), a value split
// over two JSON values or two lines (a private key may span lines), markup inside a value, an at sign spelled out. They do
// see through \u0040 in text that is JSON itself (sent as text, or JSON in a JSON string) and, in HTML and XML, through
// character references.
//
// In a string `mask` and `token` replace the match and leave the rest; a number is replaced whole. `null` and `remove` apply to
// the whole value; a value that is a whole document becomes null. A member name cannot be null and is masked; names
// that become the same are numbered. In text and headers `remove` deletes the match, and `null` masks it. The token of a match
// is made without separators, and for addresses without case.
//
// # What the output looks like
//
// Names, strings, numbers keep their spelling (so 1.50 stays 1.50); white space between them goes, because its amount can
// tell the length of what was there. A string that was changed is written anew. Lines of a sequence end with LF; empty
// lines stay. Of an event stream the data is rewritten, detectors look at `event` and `id`, which are dropped where they repeat
// what a path took from their event or one of those before it (up to 64 KiB of values; not from a later one), `retry` passes
// when it is a number, a comment passes empty (it keeps the connection alive), other fields go; with paths, an event
// whose data is not JSON is lost, and a comment says so; `ping`, `[DONE]` and the like pass, from a closed list. A value leaves in the Write that completes it, an event's when
// it ends or has 64 KiB.
//
// # Choices
//
// The tokenizer is our own. jsontext's Decoder pulls from a reader and can be resumed after a read error, but goes over an
// unfinished token again for each chunk (tried: a string of 256 KB in chunks of 16 bytes takes 11 s), and keeps every name
// of every open object. It serves as the oracle: what it takes we take, with the same tokens, and what it refuses we withhold
// (FuzzAgainstJSONText). Duplicate names are found by 64-bit hashes with a seed of the process; memory for one stream is
// bounded by the fields of Options: an unfinished token, a frame a level, 8 to 72 bytes for a name of an open object.
//
// Digits in groups beside a card are taken with it: one number in ten passes the Luhn check by chance, so whether the group
// after a card seemed to be part of it would tell something of the card.
//
// # Measured
//
// On 2 shared cores (Xeon, Go 1.26.8), account records as JSON, in one run:
//
//	two paths, 1 KB      5.1 µs   195 MB/s     5 allocations
//	two paths, 10 KB      46 µs   224 MB/s     5 allocations
//	two paths, 1 MB      4.2 ms   252 MB/s     7 allocations, 38 KB, in chunks of 16 KB
//	jsontext copy, 1 MB  5.3 ms   199 MB/s    64 allocations; what a rewrite with its decoder and encoder starts from
//	email only, 1 MB     5.0 ms   209 MB/s
//	all detectors, 1 MB  8.3 ms   126 MB/s
//	all detectors, text           164 MB/s
//	MaskText of a path   0.2 µs                no allocation
//	Compile of two paths 1.9 µs                23 allocations
package redact
