package extproctest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf16"
)

// HostileKinds are the kinds of /hostile/{kind}, sorted: answers in which a protected value hides where redaction may not
// look, or that are broken as HTTP.
func HostileKinds() []string {
	kinds := slices.Collect(maps.Keys(hostileAnswers))
	kinds = slices.AppendSeq(kinds, maps.Keys(hostileBytes))
	kinds = append(kinds, "answer-early")
	slices.Sort(kinds)
	return kinds
}

func (t *Target) hostile(w http.ResponseWriter, r *http.Request) {
	kind := r.PathValue("kind")
	if answer, ok := hostileAnswers[kind]; ok {
		answer(w, t.protected)
		return
	}
	if bytes, ok := hostileBytes[kind]; ok {
		sendBytes(w, bytes(t.protected))
		return
	}
	if kind == "answer-early" {
		// Before the request's body is read, and with the connection closed on the rest of it.
		w.Header().Set("Connection", "close")
		writeJSON(w, http.StatusOK, t.Payment(1))
		return
	}
	http.NotFound(w, r)
}

// sendBytes is for answers that a correct server cannot give. HTTP/2 has no such bytes: there the stream is reset.
func sendBytes(w http.ResponseWriter, raw string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, raw)
}

func answer(w http.ResponseWriter, contentType, body string) {
	if contentType == "" {
		w.Header()["Content-Type"] = nil // keeps net/http from guessing
	} else {
		w.Header().Set("Content-Type", contentType)
	}
	contentLength(w, len(body))
	_, _ = io.WriteString(w, body)
}

const jsonType = "application/json"

// hostileAnswers are correct HTTP.
var hostileAnswers = map[string]func(http.ResponseWriter, Protected){
	// JSON that a reader may see otherwise than its redactor.
	"duplicate-keys": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, fmt.Sprintf(`{"ssn":"none","ssn":%q}`, p.SSN))
	},
	"escaped-name": func(w http.ResponseWriter, p Protected) { answer(w, jsonType, fmt.Sprintf(`{"\u0073sn":%q}`, p.SSN)) },
	"escaped-value": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, fmt.Sprintf(`{"note":"%s"}`, escape(p.Email)))
	},
	"invalid":     func(w http.ResponseWriter, p Protected) { answer(w, jsonType, fmt.Sprintf(`{"ssn":%q,`, p.SSN)) },
	"trailing":    func(w http.ResponseWriter, p Protected) { answer(w, jsonType, fmt.Sprintf(`{}{"ssn":%q}`, p.SSN)) },
	"member-name": func(w http.ResponseWriter, p Protected) { answer(w, jsonType, fmt.Sprintf(`{%q:1}`, p.Email)) },
	"number":      func(w http.ResponseWriter, p Protected) { answer(w, jsonType, fmt.Sprintf(`{"pan":%s}`, p.Card)) },
	"nested-json": func(w http.ResponseWriter, p Protected) {
		inner, _ := json.Marshal(map[string]string{"ssn": p.SSN})
		outer, _ := json.Marshal(map[string]string{"raw": string(inner)})
		answer(w, jsonType, string(outer))
	},
	"deep": func(w http.ResponseWriter, p Protected) {
		const depth = 100_000
		answer(w, jsonType, strings.Repeat("[", depth)+fmt.Sprintf("%q", p.SSN)+strings.Repeat("]", depth))
	},
	"long-string": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, fmt.Sprintf(`{"note":"%s %s"}`, strings.Repeat("x", 8<<20), p.SSN))
	},
	"scalar": func(w http.ResponseWriter, p Protected) { answer(w, jsonType, fmt.Sprintf("%q", p.Email)) },
	"bom": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, fmt.Sprintf("\ufeff{\"ssn\":%q}", p.SSN))
	},

	// Types and charsets.
	"no-type": func(w http.ResponseWriter, p Protected) { answer(w, "", fmt.Sprintf(`{"ssn":%q}`, p.SSN)) },
	"wrong-type": func(w http.ResponseWriter, p Protected) {
		answer(w, "application/octet-stream", fmt.Sprintf(`{"ssn":%q}`, p.SSN))
	},
	"two-types": func(w http.ResponseWriter, p Protected) {
		w.Header()["Content-Type"] = []string{"text/plain", jsonType}
		_, _ = fmt.Fprintf(w, `{"ssn":%q}`, p.SSN)
	},
	"text": func(w http.ResponseWriter, p Protected) {
		answer(w, "text/plain; charset=utf-8", "write to "+p.Email+"\n")
	},
	"html": func(w http.ResponseWriter, p Protected) { answer(w, "text/html", "<p>"+p.Email+"</p>") },
	"utf-16": func(w http.ResponseWriter, p Protected) {
		answer(w, "application/json; charset=utf-16", utf16le(fmt.Sprintf(`{"ssn":%q}`, p.SSN)))
	},
	"utf-16-unlabelled": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, utf16le(fmt.Sprintf(`{"ssn":%q}`, p.SSN)))
	},
	"utf-7": func(w http.ResponseWriter, p Protected) {
		answer(w, "text/plain; charset=utf-7", strings.ReplaceAll(p.Email, "@", "+AEA-"))
	},
	"bad-utf-8": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, fmt.Sprintf("{\"x\":\"\xff\xfe\",\"ssn\":%q}", p.SSN))
	},
	"multipart": func(w http.ResponseWriter, p Protected) {
		answer(w, "multipart/mixed; boundary=b", "--b\r\nContent-Type: application/json\r\n\r\n{\"ssn\":\""+p.SSN+"\"}\r\n--b--\r\n")
	},

	// Content codings.
	"gzip": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip")
		answer(w, jsonType, string(gzipped([]byte(fmt.Sprintf(`{"ssn":%q}`, p.SSN)))))
	},
	"gzip-twice": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip, gzip")
		answer(w, jsonType, string(gzipped(gzipped([]byte(fmt.Sprintf(`{"ssn":%q}`, p.SSN))))))
	},
	"gzip-unlabelled": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, string(gzipped([]byte(fmt.Sprintf(`{"ssn":%q}`, p.SSN)))))
	},
	"gzip-labelled-plain": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip")
		answer(w, jsonType, fmt.Sprintf(`{"ssn":%q}`, p.SSN))
	},
	"gzip-truncated": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip")
		whole := gzipped([]byte(fmt.Sprintf(`{"ssn":%q}`, p.SSN)))
		answer(w, jsonType, string(whole[:len(whole)-6]))
	},
	"gzip-trailing": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip")
		answer(w, jsonType, string(gzipped([]byte(fmt.Sprintf(`{"ssn":%q}`, p.SSN))))+p.SSN)
	},
	"gzip-checksum": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip")
		body := gzipped([]byte(fmt.Sprintf(`{"ssn":%q}`, p.SSN)))
		body[len(body)-8] ^= 1
		answer(w, jsonType, string(body))
	},
	"gzip-members": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip")
		answer(w, jsonType, string(gzipped([]byte(`{"ssn":`)))+string(gzipped([]byte(fmt.Sprintf(`%q}`, p.SSN)))))
	},
	"gzip-thrice": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "gzip, gzip, gzip")
		answer(w, jsonType, string(gzipped(gzipped(gzipped([]byte(fmt.Sprintf(`{"ssn":%q}`, p.SSN)))))))
	},
	"compress": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "compress")
		answer(w, jsonType, fmt.Sprintf(`{"ssn":%q}`, p.SSN))
	},
	"gzip-bomb": func(w http.ResponseWriter, _ Protected) {
		w.Header().Set("Content-Encoding", "gzip")
		answer(w, jsonType, string(gzipped([]byte(`"`+strings.Repeat("0", 64<<20)+`"`))))
	},
	"br": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Encoding", "br")
		answer(w, jsonType, fmt.Sprintf(`{"ssn":%q}`, p.SSN))
	},

	// Places other than the body.
	"header": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("X-Customer-Email", p.Email)
		answer(w, jsonType, "{}")
	},
	"derived": func(w http.ResponseWriter, p Protected) {
		body := fmt.Sprintf(`{"ssn":%q}`, p.SSN)
		sum := fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
		for _, name := range []string{
			"ETag", "X-Bz-Content-Sha1", "Docker-Content-Digest", "X-Oss-Hash-Crc64ecma", "X-Content-Sha256", "X-Amz-Meta-Ssn",
			"X-Linked-Etag", "X-File-Size", "Server-Timing", "X-Whatever",
		} {
			w.Header().Set(name, sum)
		}
		answer(w, jsonType, body)
	},
	"repeated": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Location", "/people/"+url.PathEscape(p.SSN)+"?next=/")
		w.Header().Add("Link", "</page/2>; rel=next")
		w.Header().Add("Link", "</people?of="+base64.StdEncoding.EncodeToString([]byte("ssn="+p.SSN))+">; rel=self")
		w.Header().Set("X-Total-Count", "12")
		w.Header().Set("X-Page-Owner", hex.EncodeToString([]byte(p.SSN)))
		w.Header().Set("Content-Type", jsonType)
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"ssn":%q}`, p.SSN)
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Page-Owner", p.SSN)
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	},
	"repeated-late": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Location", "/people/"+p.SSN)
		w.Header().Set("Retry-After", "7")
		answer(w, jsonType, fmt.Sprintf(`{"note":%q,"ssn":%q}`, strings.Repeat("x", 200<<10), p.SSN))
	},
	"repeated-events": func(w http.ResponseWriter, p Protected) {
		answer(w, "text/event-stream", fmt.Sprintf("event: person\nid: %s\ndata: {\"ssn\":%q}\n\nevent: %s\nid: 2\ndata: {}\n\n", p.SSN, p.SSN, hex.EncodeToString([]byte(p.SSN))))
	},
	"broken-late": func(w http.ResponseWriter, p Protected) {
		answer(w, jsonType, fmt.Sprintf(`{"ssn":%q,"note":%q,"broken":x}`, p.SSN, strings.Repeat("x", 100<<10)))
	},
	"of-one-size": func(w http.ResponseWriter, p Protected) { // 2 KiB less the ends of this text, once its value is masked
		answer(w, jsonType, fmt.Sprintf(`{"ssn":%q,"note":%q}`, p.SSN, strings.Repeat("x", 2000)))
	},

	"set-cookie": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Set-Cookie", "last="+p.SSN+"; Path=/")
		answer(w, jsonType, "{}")
	},
	"set-cookie-trailer": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Type", jsonType)
		_, _ = io.WriteString(w, "{}")
		_ = http.NewResponseController(w).Flush()
		w.Header().Set(http.TrailerPrefix+"Set-Cookie", "session=target-session; Path=/")
		w.Header().Set(http.TrailerPrefix+"X-Sum", "7")
	},
	"location": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Location", "/customers/"+p.Email)
		w.WriteHeader(http.StatusFound)
	},
	"trailer": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Type", jsonType)
		_, _ = io.WriteString(w, "{}")
		_ = http.NewResponseController(w).Flush() // chunked, or there is no place for a trailer
		w.Header().Set(http.TrailerPrefix+"X-Customer-Email", p.Email)
	},
	"error": func(w http.ResponseWriter, p Protected) {
		http.Error(w, "cannot charge card "+p.Card+" of "+p.Email, http.StatusInternalServerError)
	},
	"early-hints": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("X-Customer-Email", p.Email)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("X-Customer-Email")
		answer(w, jsonType, "{}")
	},
	"partial": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Range", "bytes 1-5/100")
		w.Header().Set("Content-Type", jsonType)
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, p.SSN[:5])
	},
	"cut-off": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Type", jsonType)
		_, _ = fmt.Fprintf(w, `{"ssn":%q,`, p.SSN)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"cut-off-in-a-value": func(w http.ResponseWriter, p Protected) {
		w.Header().Set("Content-Type", jsonType)
		_, _ = fmt.Fprintf(w, `{"id":7,"ssn":"%s`, p.SSN[:6])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	},
	"cut-off-at-once": func(w http.ResponseWriter, _ Protected) {
		w.Header().Set("Content-Type", jsonType)
		_ = http.NewResponseController(w).Flush() // the head alone
		panic(http.ErrAbortHandler)
	},
	"no-answer": func(http.ResponseWriter, Protected) { panic(http.ErrAbortHandler) },
}

// hostileBytes are not correct HTTP/1.1, or are written as few servers do.
var hostileBytes = map[string]func(Protected) string{
	"length-too-long": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"ssn\":\"" + p.SSN + "\"}"
	},
	"length-too-short": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}{\"ssn\":\"" + p.SSN + "\"}"
	},
	"two-lengths": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\n{}\"" + p.SSN + "\""
	},
	"length-and-chunked": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n\"" +
			fmt.Sprintf("%-11.11s", p.SSN) + "\"\r\n0\r\n\r\n"
	},
	"bad-chunk": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n" + p.SSN
	},
	"no-last-chunk": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{\"ssn\":\"" + fmt.Sprintf("%-11.11s", p.SSN) + "\"}\r\n"
	},
	"until-close": func(p Protected) string {
		return "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"ssn\":\"" + p.SSN + "\"}"
	},
	"reason-phrase": func(p Protected) string {
		return "HTTP/1.1 200 " + p.Email + "\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
	},
	"header-bytes": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nX-Raw: \xff\xfe" + p.SSN + "\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
	},
	"header-folded": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nX-Folded: a\r\n " + p.SSN + "\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"
	},
	"two-answers": func(p Protected) string {
		return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}" +
			"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n\"" + fmt.Sprintf("%-11.11s", p.SSN) + "\""
	},
	"switch-protocols": func(p Protected) string {
		return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n" + p.SSN
	},
	"garbage": func(p Protected) string { return "\x00\x01\x02" + p.SSN + "\r\n\r\n" },
}

func escape(s string) string {
	var out strings.Builder
	for _, r := range s {
		fmt.Fprintf(&out, `\u%04x`, r)
	}
	return out.String()
}

func utf16le(s string) string {
	var out []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		out = append(out, byte(unit), byte(unit>>8))
	}
	return string(out)
}
