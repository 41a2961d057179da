package extproctest

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// EndlessKinds are the kinds of /endless/{kind}, sorted: answers that have no end, in this part or that. They go on until
// whoever reads them leaves. Only HTTP/1.1 has them.
func EndlessKinds() []string { return slices.Sorted(maps.Keys(endlessAnswers)) }

// endless is the beginning of an answer, and what then comes again and again.
type endless struct{ begin, again string }

const statusLine = "HTTP/1.1 200 OK\r\n"

var endlessAnswers = map[string]endless{
	"body": {statusLine + "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(strings.Repeat("x", 1<<16))},

	// JSON whose next value never comes, or whose values never end.
	"array":  {statusLine + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk("[0"), chunk(strings.Repeat(`,{"n":1}`, 1<<10))},
	"string": {statusLine + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(`{"note":"`), chunk(strings.Repeat("x", 1<<16))},
	"space":  {statusLine + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(`{"note":`), chunk(strings.Repeat(" ", 1<<16))},
	"depth":  {statusLine + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(strings.Repeat("[", 1<<10))},
	"number": {statusLine + "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(strings.Repeat("1", 1<<16))},
	"event":  {statusLine + "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n", chunk("data: " + strings.Repeat("x", 1<<16) + "\n")},
	"line":   {statusLine + "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(`"`), chunk(strings.Repeat("x", 1<<16))},

	// The frame around the body.
	"chunk-extension": {statusLine + "Transfer-Encoding: chunked\r\n\r\n1;", strings.Repeat("x", 1<<16)},
	"header":          {statusLine + "X-Long: ", strings.Repeat("x", 1<<16)},
	"headers":         {statusLine, strings.Repeat("X-More: "+strings.Repeat("x", 100)+"\r\n", 100)},
	"informational":   {"", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n", 100)},
	"status":          {"HTTP/1.1 200 ", strings.Repeat("x", 1<<16)},
	"trailers":        {statusLine + "Transfer-Encoding: chunked\r\n\r\n0\r\n", strings.Repeat("X-More: "+strings.Repeat("x", 100)+"\r\n", 100)},
}

func chunk(data string) string {
	return strconv.FormatInt(int64(len(data)), 16) + "\r\n" + data + "\r\n"
}

func (t *Target) endless(w http.ResponseWriter, r *http.Request) {
	answer, ok := endlessAnswers[r.PathValue("kind")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, answer.begin)
	again := []byte(answer.again)
	for err == nil {
		_, err = conn.Write(again)
	}
	t.gone(r)
}
