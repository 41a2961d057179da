package extproctest

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// lastPage is the last page of /links/pages.
const lastPage = 4

// links answers with URLs of the target itself, made of the Host that it sees, as frameworks do. /links/pages?page=N is a page of a
// list, with the next one in its Link and in its body; /links/away redirects to it; /links/said?FIELD=VALUE&body=TEXT&type=TYPE says
// what it is told, with BASE for its own origin and HOST for its authority.
func (t *Target) links(w http.ResponseWriter, r *http.Request) {
	base := "http://" + r.Host
	query := r.URL.Query()
	switch r.PathValue("kind") {
	case "away":
		w.Header().Set("Location", base+"/links/pages?page=1")
		w.WriteHeader(http.StatusFound)
	case "pages":
		page, _ := strconv.Atoi(query.Get("page"))
		self, next := fmt.Sprintf("%s/links/pages?page=%d", base, page), "null"
		w.Header().Add("Link", fmt.Sprintf(`<%s>; rel="self"; title="a, b"`, self))
		if page < lastPage {
			url := fmt.Sprintf("%s/links/pages?page=%d", base, page+1)
			w.Header().Add("Link", fmt.Sprintf(`<%s/links/pages?page=%d>; rel=last, <%s>; rel="next"`, base, lastPage, url))
			next = strconv.Quote(url)
		}
		w.Header().Set("Content-Location", self)
		body := fmt.Sprintf(`{"page": %d, "next": %s, "ssn": %q, "items": [{"url": "%s/v1/payments/1"}, {"url": "https://elsewhere.test/"}]}`, page, next, t.protected.SSN, base)
		sum := sha256.Sum256([]byte(body))
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
		w.Header().Set("Alt-Svc", `h2="`+r.Host+`"`)
		answer(w, jsonType, body)
	case "said":
		own := strings.NewReplacer("BASE", base, "HOST", r.Host)
		for name, values := range query {
			for _, v := range values {
				if name != "body" && name != "type" {
					w.Header().Add(name, own.Replace(v))
				}
			}
		}
		w.Header().Set("Content-Type", query.Get("type"))
		_, _ = io.WriteString(w, own.Replace(query.Get("body")))
	}
}
